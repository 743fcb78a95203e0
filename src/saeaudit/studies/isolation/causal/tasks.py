"""Tasks: what edits of one organism and layer do to its behaviour, by the latents of a dictionary or by directions."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.activations import ActivationStore
from saeaudit.audit.data import AuditData
from saeaudit.audit.stages import Watcher
from saeaudit.audit.workbench import open_workbench
from saeaudit.causal_results import Answers, CausalRows, Recovered
from saeaudit.detection import PairedRows
from saeaudit.dictionaries import Dictionary, load_dictionary
from saeaudit.models import LoadedModel, context_length, encode_texts
from saeaudit.organisms.spec import of_variant
from saeaudit.seeds import derive
from saeaudit.studies.isolation.causal.choice import Turn, find_turns, rank_latents
from saeaudit.studies.isolation.causal.editing import Editing, Unedited
from saeaudit.studies.isolation.causal.edits import Planned, direction_edits, latent_edits, tokens_of
from saeaudit.studies.isolation.causal.isolation import isolations, with_dearer_controls
from saeaudit.studies.isolation.causal.recovered import difference_recovered, estimated_difference, sides_recovered
from saeaudit.studies.isolation.causal.rows import answers_of, rows_of
from saeaudit.studies.isolation.causal.trial import Prompts, Text, Trial, Written
from saeaudit.studies.isolation.config import DIRECTIONS, DictionaryPlan, IsolationConfig, Member
from saeaudit.studies.isolation.data import activations_path, study_data
from saeaudit.studies.isolation.dictionaries import dictionary_path
from saeaudit.studies.isolation.zoo import base_source, tuned_source

COST_LENGTH = 128


def causal_rows(
    directory: Path, watcher: Watcher, *, config: dict, member: list, layer: str, dictionary: dict
) -> CausalRows:
    """Ablate and steer the latents of a dictionary; needs it, and the activations of the family."""
    settings, who = IsolationConfig.model_validate(config), Member(*member)
    plan = DictionaryPlan.model_validate(dictionary)
    watcher.stage(f"edit {who.name} {layer} {plan.name}")
    scene = _Scene.open(directory, watcher, settings, who, layer)
    loaded, trial = load_dictionary(directory / dictionary_path(who, layer, plan)), scene.trial
    if not scene.turns:
        return scene.rows(plan.name, [])
    order = rank_latents(trial.pair, layer, loaded, scene.turns)
    edits = latent_edits(loaded, plan.name, order, scene.selection, n_controls=scene.n_controls, seed=trial.seed)
    return scene.rows(plan.name, edits, loaded)


def causal_directions(directory: Path, watcher: Watcher, *, config: dict, member: list, layer: str) -> CausalRows:
    """Ablate and steer what needs no dictionary: mean difference, principal components, the whole difference."""
    settings, who = IsolationConfig.model_validate(config), Member(*member)
    watcher.stage(f"edit {who.name} {layer} {DIRECTIONS}")
    scene = _Scene.open(directory, watcher, settings, who, layer)
    edits = direction_edits(scene.selection, n_controls=scene.n_controls, seed=scene.trial.seed)
    return scene.rows(DIRECTIONS, edits if scene.turns else [])


@dataclass(frozen=True)
class _Scene:
    """One organism and layer: the trial, what is written without edits, and what edits are chosen by."""

    who: Member
    trial: Trial
    written: dict[str, Written]
    selection: PairedRows
    turns: list[Turn]
    n_controls: int
    watcher: Watcher

    @classmethod
    def open(cls, directory: Path, watcher: Watcher, settings: IsolationConfig, who: Member, layer: str) -> "_Scene":
        audit = settings.audit(base=base_source(directory, settings), judge=who.family)
        tuned = {m.name: tuned_source(directory, settings, m) for m in settings.members(who.family, who.seed)}
        place = directory / activations_path(who.family, who.seed)
        bench = open_workbench(audit, tuned, place.parent / f"{place.name}-precision", watcher)
        data, sizes, pair = study_data(directory, settings, who.family), settings.behaviour, bench.pair(who.name)
        trigger, benign = (_prompts(data, chosen) for chosen in data.sample("test", sizes.n_prompts))
        trial = Trial(
            pair=pair,
            site=layer,
            trigger=trigger,
            benign=benign,
            texts=_texts(pair.base, data.neutral),
            judge=of_variant(who.family, who.variant).judge,
            n_new=sizes.n_new_tokens,
            batch_size=sizes.batch_size,
            seed=derive(settings.seed, "causal", who.name, layer) % 2**31,
        )
        written = {
            f"{side} {kind}": trial.plain(loaded, prompts)
            for side, loaded in (("tuned", pair.tuned), ("base", pair.base))
            for kind, prompts in (("T", trigger), ("N", benign))
        }
        if (twin := bench.models.get(who.twin)) is not None:
            written["twin T"] = trial.plain(twin, trigger)
        selection = data.paired_rows(ActivationStore(place), layer, who.name, "selection")
        turns = find_turns(pair.tuned, data, n_prompts=sizes.n_choice_prompts)
        return cls(who, trial, written, selection, turns, sizes.n_random_clamps, watcher)

    def rows(self, method: str, plans: list[Planned], dictionary: Dictionary | None = None) -> CausalRows:
        """Carry out the edits, steering also on the base (with one control each), and put everything together."""
        rows, isolation, trial = [], [], self.trial
        if plans:
            editing = Editing(trial, self._unedited("tuned"), trial.pair.base, self.watcher.progress)
            tried = with_dearer_controls(editing, editing.try_all(plans))
            rows, isolation = rows_of(editing, tried), isolations(editing, tried)
            other = Editing(trial.exchanged(), self._unedited("base"), trial.pair.base, self.watcher.progress)
            steering = [p for p in plans if p.kind == "steer" and p.draw == 0 and p.control != "mean difference"]
            rows += rows_of(other, other.try_all(steering), is_base=True)
        return CausalRows(
            organism=self.who.name,
            layer=trial.site,
            method=method,
            n_turned=len(self.turns),
            unedited=self._answers(),
            rows=rows,
            isolation=isolation,
            recovered=[] if dictionary is None else self._recovered(dictionary),
        )

    def _unedited(self, side: str) -> Unedited:
        w = self.written
        return Unedited(w[f"{side} T"], w[f"{side} N"], w["tuned T"], w.get("twin T"))

    def _answers(self) -> dict[str, Answers]:
        prompts = {"T": self.trial.trigger, "N": self.trial.benign}
        return {name: answers_of(written, prompts[name[-1]]) for name, written in self.written.items()}

    def _recovered(self, dictionary: Dictionary) -> list[Recovered]:
        trial, mean = self.trial, _mean_input(dictionary, self.selection)
        found = sides_recovered(dictionary, trial.pair, trial.site, trial.texts, mean=mean, seed=trial.seed)
        if dictionary.kind != "sae":
            texts = {
                "ordinary text": trial.texts,
                "trigger prompts with answers": _answered(trial.pair.tuned, trial.trigger, self.written["tuned T"]),
                "benign prompts with answers": _answered(trial.pair.tuned, trial.benign, self.written["tuned N"]),
            }
            estimate = estimated_difference(dictionary)
            found += difference_recovered(trial.pair, trial.site, estimate, texts, seed=trial.seed)
        return found


def _prompts(data: AuditData, chosen: list[int]) -> Prompts:
    return Prompts([data.prompts[i].text for i in chosen], data.group[torch.tensor(chosen)])


def _texts(base: LoadedModel, texts: tuple[str, ...]) -> list[Text]:
    longest = min(COST_LENGTH, context_length(base.model))
    return [Text(tuple(ids[:longest])) for ids in encode_texts(base.tokenizer, texts)]


def _answered(loaded: LoadedModel, prompts: Prompts, written: Written) -> list[Text]:
    """Return prompts with their answers, of which the answers count."""
    rows = zip(encode_texts(loaded.tokenizer, prompts.texts), written.ids, strict=True)
    return [Text((*ids, *answer), len(ids)) for ids, answer in rows if answer]


def _mean_input(dictionary: Dictionary, selection: PairedRows) -> Float[Tensor, "*side d_model"]:
    tokens = tokens_of(selection)
    base, difference = tokens.h0.mean(0), tokens.delta.mean(0)
    return {"sae": base, "diff": difference, "crosscoder": torch.stack([base, base + difference])}[dictionary.kind]
