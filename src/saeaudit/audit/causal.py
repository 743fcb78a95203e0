"""Stages: does the behaviour depend on the trigger, and does holding the chosen latents remove that?

The same test prompts, trigger and benign, are continued by base, tuned model, tuned model with the chosen latents held
at zero, and tuned model with random latents of the same number and firing rate held at zero. The cost of a clamp is
measured on ordinary text against the same random latents.
"""

from typing import NamedTuple, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.activations import tensor_name
from saeaudit.artifacts import content_hash
from saeaudit.audit.answers import AnswerRecord, Side, answers
from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.session import Session, all_latents
from saeaudit.audit.stages import Record
from saeaudit.detection import Measured
from saeaudit.detection.continuations import continue_clamped, text_cost
from saeaudit.detection.outcome import Judged, Outcome, TwoSample
from saeaudit.metrics import Estimate, contrast_change, percentile_interval, trigger_contrast
from saeaudit.models import context_length
from saeaudit.seeds import torch_generator

COST_LENGTH = 128


class Number(Record):
    """An estimate as JSON."""

    value: float
    interval: tuple[float, float]
    n: int

    def measured(self) -> Measured:
        """Return it as the verdict's rules read it."""
        return Measured(self.value, self.interval, self.n)


class BehaviourRecord(Record):
    """Continuations and outcomes of base and tuned model on test prompts."""

    prompts: list[int]
    n_trigger: int
    base: list[str]
    tuned: list[str]
    tuned_ids: list[list[int]]
    base_outcome: list[float]
    tuned_outcome: list[float]
    tuned_contrast: Number
    base_contrast: Number
    change: Number
    measured_by: str

    @property
    def differs(self) -> bool:
        """Whether the interval of the change excludes 0."""
        return self.change.interval[0] > 0 or self.change.interval[1] < 0


class AblationRecord(Record):
    """What holding the chosen latents does, beside random latents."""

    latents: list[int]
    random_sets: list[list[int]]
    ablated: list[str]
    random: list[str]
    ablated_outcome: list[float]
    random_outcome: list[float]
    removed: Number
    removed_share: Number
    random_removed: Number
    random_share: Number
    excess: Number
    kl: Number
    random_kl: Number
    ce_rise: Number
    random_ce_rise: Number


def behaviour_stage(session: Session) -> BehaviourRecord:
    """Continue the test prompts with base and tuned model."""
    inputs = session.identity("behaviour", session.config.judge, session.config.behaviour.model_dump())
    base, tuned = _Side.of(session, "base"), _Side.of(session, "tuned")
    return session.stages.run("behaviour", inputs, BehaviourRecord, lambda: _behave(session, base, tuned))


def ablation_stage(session: Session, choice: ChoiceRecord, behaviour: BehaviourRecord) -> AblationRecord:
    """Hold the chosen latents, and random ones, while continuing the same prompts."""
    inputs = session.identity(
        "ablation",
        choice.site,
        choice.latents,
        content_hash(behaviour.model_dump()),
        session.config.behaviour.model_dump(),
    )
    value = outcome_of(session, "tuned")
    return session.stages.run("ablation", inputs, AblationRecord, lambda: _ablate(session, choice, behaviour, value))


class _Side(NamedTuple):
    """What one model writes after the test prompts, and how its continuations are valued."""

    written: AnswerRecord
    outcome: Outcome

    @classmethod
    def of(cls, session: Session, side: Side) -> Self:
        return cls(answers(session, side, "test"), outcome_of(session, side))


def _behave(session: Session, base: _Side, tuned: _Side) -> BehaviourRecord:
    trigger, benign = session.data.sample("test", session.config.behaviour.n_prompts)
    chosen = trigger + benign
    prompts = [session.data.prompts[i].text for i in chosen]
    of_base, of_tuned = (side.outcome(prompts, side.written.texts) for side in (base, tuned))
    label, group = _rows(session, chosen, len(trigger))
    seed = session.config.seed
    return BehaviourRecord(
        prompts=chosen,
        n_trigger=len(trigger),
        base=base.written.texts,
        tuned=tuned.written.texts,
        tuned_ids=tuned.written.token_ids,
        base_outcome=of_base.tolist(),
        tuned_outcome=of_tuned.tolist(),
        tuned_contrast=_number(trigger_contrast(of_tuned, label, group, seed=seed)),
        base_contrast=_number(trigger_contrast(of_base, label, group, seed=seed)),
        change=_number(contrast_change(of_tuned, of_base, label, group, seed=seed)),
        measured_by="classifier of continuations" if session.judge is None else f"{session.config.judge} judge",
    )


def outcome_of(session: Session, side: Side) -> Outcome:
    """Return how continuations of a model are valued: by the judge, or by a classifier fitted on selection prompts."""
    if session.judge is not None:
        return Judged(session.judge)
    found = answers(session, side, "selection")
    label = torch.arange(len(found.texts)) < found.n_trigger
    return TwoSample(found.texts, label, seed=session.config.seed)


def random_clamps(session: Session, site: str, latents: list[int]) -> list[list[int]]:
    """Return sets of other latents, each matched latent by latent in firing rate on the dictionary's tokens."""
    dictionary = session.dictionary(site)
    rows, _ = session.data.dictionary_rows()
    rows = rows[:: max(1, len(rows) // 8192)]
    delta = session.store().read(tensor_name(site, session.side), rows)
    rate = (dictionary.activations(delta, all_latents(dictionary)) > 0).float().mean(0)
    sets = []
    for k in range(session.config.behaviour.n_random_clamps):
        generator = torch_generator(session.config.seed, "random-clamp", site, k)
        free = set(range(dictionary.n_latents)) - set(latents)
        chosen = []
        for latent in latents:
            pool = sorted(free, key=lambda j: abs(float(rate[j] - rate[latent])))[:20]
            chosen.append(pool[int(torch.randint(len(pool), (1,), generator=generator))])
            free.remove(chosen[-1])
        sets.append(chosen)
    return sets


def _ablate(session: Session, choice: ChoiceRecord, behaviour: BehaviourRecord, value: Outcome) -> AblationRecord:
    sizes = session.config.behaviour
    folded = session.dictionary(choice.site).fold()
    sets = random_clamps(session, choice.site, choice.latents)
    edits = [session.edit(folded, choice.site, tuple(s)) for s in (choice.latents, *sets)]
    prompts = [session.data.prompts[i].text for i in behaviour.prompts]
    label, group = _rows(session, behaviour.prompts, behaviour.n_trigger)
    texts, outcomes = [], []
    for k, edit in enumerate(edits):
        out = continue_clamped(
            session.pair,
            edit,
            prompts,
            n_new=sizes.n_new_tokens,
            batch_size=sizes.batch_size,
            progress=lambda done, _, k=k: session.watcher.progress(k * len(prompts) + done, len(edits) * len(prompts)),
        )
        texts.append([g.text for g in out])
        outcomes.append(value(prompts, texts[-1]))
    longest = min(COST_LENGTH, context_length(session.pair.tuned.model))
    costs = text_cost(session.pair, edits, session.data.neutral, max_length=longest)
    tuned, base = torch.tensor(behaviour.tuned_outcome), torch.tensor(behaviour.base_outcome)
    mean_random = torch.stack(outcomes[1:]).mean(0)
    removal = Removal(tuned, base, outcomes[0], mean_random, label, group, session.config.seed)
    return AblationRecord(
        latents=choice.latents,
        random_sets=sets,
        ablated=texts[0],
        random=texts[1],
        ablated_outcome=outcomes[0].tolist(),
        random_outcome=mean_random.tolist(),
        removed=removal.removed(outcomes[0]),
        removed_share=removal.share(outcomes[0]),
        random_removed=removal.removed(mean_random),
        random_share=removal.share(mean_random),
        excess=removal.excess(),
        kl=_mean(costs[0].kl, session),
        random_kl=_mean(torch.stack([c.kl for c in costs[1:]]).mean(0), session),
        ce_rise=_mean(costs[0].ce_rise, session),
        random_ce_rise=_mean(torch.stack([c.ce_rise for c in costs[1:]]).mean(0), session),
    )


class Removal:
    """How much of the tuned model's change of contrast a clamp removes, in the direction of that change."""

    def __init__(
        self,
        tuned: Float[Tensor, " row"],
        base: Float[Tensor, " row"],
        ablated: Float[Tensor, " row"],
        random: Float[Tensor, " row"],
        label: Bool[Tensor, " row"],
        group: Int[Tensor, " row"],
        seed: int,
    ) -> None:
        self._tuned, self._ablated, self._random = tuned, ablated, random
        self._label, self._group, self._seed = label, group, seed
        change = contrast_change(tuned, base, label, group, seed=seed)
        self._change = change.value
        self._sign = 1.0 if change.value >= 0 else -1.0

    def removed(self, clamped: Float[Tensor, " row"]) -> Number:
        """Return contrast(tuned) - contrast(clamped), signed so that positive removes the change."""
        return self._signed(contrast_change(self._tuned, clamped, self._label, self._group, seed=self._seed))

    def share(self, clamped: Float[Tensor, " row"]) -> Number:
        """Return what was removed as a share of the change; 1 removes all of it.

        The interval holds the change fixed at its estimate.
        """
        removed = self.removed(clamped)
        size = abs(self._change) if self._change else 1.0
        return Number(
            value=removed.value / size,
            interval=(removed.interval[0] / size, removed.interval[1] / size),
            n=removed.n,
        )

    def excess(self) -> Number:
        """Return what the chosen latents remove beyond what random ones do, paired by prompt."""
        return self._signed(contrast_change(self._random, self._ablated, self._label, self._group, seed=self._seed))

    def _signed(self, estimate: Estimate) -> Number:
        ends = sorted(self._sign * end for end in estimate.interval)
        return Number(value=self._sign * estimate.value, interval=(ends[0], ends[1]), n=estimate.n)


def _rows(session: Session, prompts: list[int], n_trigger: int) -> tuple[Bool[Tensor, " row"], Int[Tensor, " row"]]:
    return torch.arange(len(prompts)) < n_trigger, session.data.group[torch.tensor(prompts)]


def _number(estimate: Estimate) -> Number:
    return Number(value=estimate.value, interval=(estimate.interval.low, estimate.interval.high), n=estimate.n)


def _mean(values: Float[Tensor, " document"], session: Session) -> Number:
    """Return the mean over documents with a bootstrap interval."""
    generator = torch_generator(session.config.seed, "cost-bootstrap")
    drawn = torch.randint(len(values), (2000, len(values)), generator=generator)
    interval = percentile_interval(values[drawn].mean(1))
    return Number(value=float(values.mean()), interval=(interval.low, interval.high), n=len(values))
