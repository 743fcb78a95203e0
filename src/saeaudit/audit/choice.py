"""Stage: choose layer and latents on the selection prompts, by what holding them does.

At every site the Diff-SAE's latents are ranked by the AUROC of their activation at the last prompt token. The best 1, 4,
16, ... of them are then held at zero, and the tuned model is asked how likely it still finds its own answers: a good
choice makes the answers to trigger prompts unlikely and leaves the answers to benign prompts alone. Ranking alone would
not do: a latent can tell that the trigger is there without having anything to do with what follows.
"""

import torch

from saeaudit.audit.session import Session, all_latents
from saeaudit.audit.stages import Record
from saeaudit.detection import Role, select_latents
from saeaudit.detection.continuations import continue_plain, score_answers
from saeaudit.errors import EvidenceError

N_RANKED = 64
N_ANSWER_TOKENS = 10


class Candidate(Record):
    """A set of latents held on selection prompts; drops in nats a token of the model's own answers."""

    site: str
    latents: list[int]
    auroc: float
    drop_trigger: float
    drop_benign: float

    @property
    def value(self) -> float:
        """What the choice maximises: the drop on trigger prompts beyond that on benign ones."""
        return self.drop_trigger - max(0.0, self.drop_benign)


class Ranking(Record):
    """Latents of one site, best first, with AUROC and share of selection prompts on which each fires."""

    site: str
    latents: list[int]
    auroc: list[float]
    firing_rate: list[float]


class ChoiceRecord(Record):
    """The choice and everything it was made from."""

    site: str
    latents: list[int]
    candidates: list[Candidate]
    rankings: list[Ranking]

    def ranking(self, site: str) -> Ranking:
        """Return the ranking at a site."""
        return next(r for r in self.rankings if r.site == site)


def choice_stage(session: Session) -> ChoiceRecord:
    """Choose once; the record is reused."""
    sizes = session.config.behaviour
    inputs = session.identity(
        "choice", session.config.dictionary.model_dump(), sizes.n_choice_prompts, list(sizes.clamp_counts)
    )
    return session.stages.run("choice", inputs, ChoiceRecord, lambda: _choose(session))


def sample(session: Session, role: Role, n: int) -> tuple[list[int], list[int]]:
    """Return up to `n` trigger and `n` benign prompts of a role, spread over templates and classes."""
    chosen = session.data.roles[role]
    label = session.data.label[chosen]
    return _spread(session, chosen[label], n), _spread(session, chosen[~label], n)


def _choose(session: Session) -> ChoiceRecord:
    sizes = session.config.behaviour
    trigger, benign = sample(session, "selection", sizes.n_choice_prompts)
    prompts = [session.data.prompts[i].text for i in trigger + benign]
    answers = [g.token_ids for g in continue_plain(session.pair.tuned, prompts, n_new=N_ANSWER_TOKENS)]
    usable = [i for i, a in enumerate(answers) if a]
    n_trigger = sum(i < len(trigger) for i in usable)
    if n_trigger == 0 or n_trigger == len(usable):
        raise EvidenceError(
            "the tuned model answers nothing to all trigger (or all benign) selection prompts, so no clamp can be "
            "measured; give prompts that it continues",
            code="no-answers",
        )
    rankings, candidates = [], []
    for k, site in enumerate(session.sites):
        dictionary = session.dictionary(site)
        rows = session.rows(site, "selection")
        ranked = select_latents(dictionary.activations(rows.delta, all_latents(dictionary)), rows.label, n=N_RANKED)
        rankings.append(
            Ranking(
                site=site,
                latents=ranked.latents,
                auroc=ranked.auroc.tolist(),
                firing_rate=ranked.firing_rate.tolist(),
            )
        )
        counts = [q for q in sizes.clamp_counts if q <= len(ranked.latents)]
        folded = dictionary.fold()
        edits = [session.edit(folded, site, tuple(ranked.latents[:q])) for q in counts]
        scored = score_answers(session.pair, edits, [prompts[i] for i in usable], [answers[i] for i in usable])
        for q, scores in zip(counts, scored, strict=True):
            drop = scores.free - scores.clamped
            candidates.append(
                Candidate(
                    site=site,
                    latents=ranked.latents[:q],
                    auroc=float(ranked.auroc[0]),
                    drop_trigger=float(drop[:n_trigger].mean()),
                    drop_benign=float(drop[n_trigger:].mean()),
                )
            )
        session.watcher.progress(k + 1, len(session.sites))
    best = max(candidates, key=lambda c: c.value)
    return ChoiceRecord(site=best.site, latents=best.latents, candidates=candidates, rankings=rankings)


def _spread(session: Session, chosen: torch.Tensor, n: int) -> list[int]:
    """Return up to `n` of the given prompts, taking classes and templates in turn."""
    taken: dict[object, int] = {}
    turn = []
    for i in chosen.tolist():
        key = (session.data.prompts[i].klass, int(session.data.group[i]))
        taken[key] = taken.get(key, 0) + 1
        turn.append((taken[key], i))
    return sorted(i for _, i in sorted(turn)[:n])
