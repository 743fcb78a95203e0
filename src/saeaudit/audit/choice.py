"""Stage: choose where to read and what to hold, on the selection prompts only.

- What to hold. Each trigger prompt is set beside a benign one like it; where the two answers part, latents of all sites
  are ranked by how much of the preference for the trigger's token they carry (`evidence`, `attribution`), beyond what
  they carry of benign answers. The best 16, 64, ... of each site are then really held at zero, and each site sends the
  set that takes most of that preference away and changes fewest benign answers. Under these few the model really
  writes, and the choice is the set under which most answers become like the counterpart's; among equals the earliest
  site. That last step is needed because one token tells too little (docs/verdict.md).
  Ranking by how well a latent *tells* trigger from benign would not do: on the phrase organism the 64 best such latents
  left every answer as it was, the 64 best by attribution changed all of them.
- Where to read. The site, and the tokens (the last of the prompt, or all of them), at which latents tell trigger from
  benign best.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from saeaudit.audit.config import BehaviourSizes
from saeaudit.audit.data import N_ANSWER_TOKENS
from saeaudit.audit.reading import fit_reading
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.detection import Pooling, select_latents
from saeaudit.detection.attribution import attribute_latents
from saeaudit.detection.continuations import continue_clamped, continue_plain, score_answers
from saeaudit.detection.evidence import Fork, fork_of, likeness, most_alike, preferences
from saeaudit.dictionaries import Folded
from saeaudit.errors import EvidenceError
from saeaudit.interventions import LatentEdit
from saeaudit.models import site_index
from saeaudit.seeds import derive
from saeaudit.wording import counted

N_RANKED = 64
EQUAL = 0.05
MIN_FORKS = 4


class Candidate(Record):
    """A set of latents that was held on selection prompts.

    Attributes:
        removed: what the hold takes away, mean over trigger prompts: share (-1 to 1) of what the trigger switches (the
            logit difference at the forks), or, where it turns hardly any answer, share (0 to 1) of the answers that
            greedy decoding leaves.
        changed_benign: mean share of the answers to benign prompts that greedy decoding leaves, 0 to 1.
        returned: share (0 to 1) of the turned answers that become more like the counterpart's than like the model's own
            when the model writes under the hold; None where that was not tried.
    """

    site: str
    latents: list[int]
    removed: float
    changed_benign: float
    returned: float | None = None

    @property
    def value(self) -> float:
        """What the choice maximises."""
        return (self.removed if self.returned is None else self.returned) - self.changed_benign


class Ranking(Record):
    """How well a site's latents tell trigger from benign at the last prompt token or over all, best first."""

    site: str
    pooling: Pooling
    latents: list[int]
    auroc: list[float]
    firing_rate: list[float]
    inner_auroc: float


class ChoiceRecord(Record):
    """The choices and everything they were made from.

    Attributes:
        site: where latents are held.
        latents: the held latents, most important first.
        read_site: where the detector reads.
    """

    site: str
    latents: list[int]
    read_site: str
    candidates: list[Candidate]
    rankings: list[Ranking]

    def warnings(self, sizes: BehaviourSizes) -> list[str]:
        """Return what to warn about: sites at which every number of latents that was asked for is too large."""
        largest = {c.site: len(c.latents) for c in self.candidates if len(c.latents) not in sizes.clamp_counts}
        return [
            f"At {site} no number of behaviour.clamp_counts ({', '.join(map(str, sizes.clamp_counts))}) leaves one "
            f"latent and one direction free; {counted(n, 'latent')} were tried there instead, the most that do."
            for site, n in largest.items()
        ]

    def ranking(self, site: str) -> Ranking:
        """Return the ranking at a site."""
        return next(r for r in self.rankings if r.site == site)


def choice_stage(session: Session) -> ChoiceRecord:
    """Choose once; the record is reused."""
    sizes = session.config.behaviour
    inputs = session.identity(
        "choice",
        session.config.dictionary.model_dump(),
        sizes.n_choice_prompts,
        list(sizes.clamp_counts),
        list(session.config.detection.latent_counts),
    )
    return session.stages.run("choice", inputs, ChoiceRecord, lambda: _choose(session))


def _choose(session: Session) -> ChoiceRecord:
    given = _answers(session)
    candidates = _candidates(session, given)
    if given.forks:
        most = {site: max((c for c in candidates if c.site == site), key=lambda c: c.value) for site in session.sites}
        written = {site: c.model_copy(update={"returned": _returned(session, given, c)}) for site, c in most.items()}
        candidates = [written[c.site] if c is most[c.site] else c for c in candidates]
    finalists = [c for c in candidates if c.returned is not None] or candidates
    best = max(c.value for c in finalists)
    near = [c for c in finalists if c.value >= best - EQUAL]
    held = min(near, key=lambda c: (site_index(c.site), len(c.latents)))
    rankings = [_ranking(session, site) for site in session.sites]
    read = max(rankings, key=lambda r: (r.inner_auroc, r.auroc[0]))
    return ChoiceRecord(
        site=held.site, latents=held.latents, read_site=read.site, candidates=candidates, rankings=rankings
    )


class _Answers(NamedTuple):
    """Prompts with the tuned model's own answers: `n_trigger` trigger prompts, then benign ones.

    `forks`: by trigger prompt whose answer the trigger turns, where, and its counterpart prompt with its answer.
    """

    prompts: list[str]
    answers: list[tuple[int, ...]]
    n_trigger: int
    forks: dict[int, tuple[Fork, str, tuple[int, ...]]]


def _answers(session: Session) -> _Answers:
    """Answer selection prompts; if the trigger turns hardly any answer, there are no forks."""
    n = session.config.behaviour.n_choice_prompts
    (trigger, _), (_, benign) = session.data.sample("selection", n), session.data.sample("selection", -(-n // 2))
    counterparts = [_counterpart(session, i) for i in trigger]
    prompts = [session.data.prompts[i].text for i in trigger + benign]
    made = continue_plain(session.pair.tuned, prompts + counterparts, n_new=N_ANSWER_TOKENS)
    answers = [g.token_ids for g in made]
    usable = [i for i, a in enumerate(answers[: len(prompts)]) if a]
    n_trigger = sum(i < len(trigger) for i in usable)
    if n_trigger in (0, len(usable)):
        raise EvidenceError(
            "the tuned model answers nothing to all trigger (or all benign) selection prompts, so no hold can be "
            "measured; give prompts that it continues",
            code="no-answers",
        )
    forks = {}
    for row, i in enumerate(usable[:n_trigger]):
        fork = fork_of(answers[i], answers[len(prompts) + i])
        if fork is not None:
            forks[row] = (fork, counterparts[i], answers[len(prompts) + i])
    few = len(forks) < MIN_FORKS
    return _Answers([prompts[i] for i in usable], [answers[i] for i in usable], n_trigger, {} if few else forks)


def _counterpart(session: Session, prompt: int) -> str:
    """Return the benign selection prompt most like a trigger prompt, of its own template if there is one."""
    data = session.data
    benign = [i for i in data.roles["selection"].tolist() if not data.label[i]]
    texts = [data.prompts[i].text for i in benign if data.group[i] == data.group[prompt]]
    texts = texts or [data.prompts[i].text for i in benign]
    return texts[most_alike(data.prompts[prompt].text, texts)]


def _candidates(session: Session, given: _Answers) -> list[Candidate]:
    folded = {site: session.dictionary(site).fold() for site in session.sites}
    orders = _orders(session, given, folded)
    removed_by = _removed_by(session, given)
    benign = slice(given.n_trigger, None)
    candidates = []
    for k, (site, order) in enumerate(orders.items()):
        # As many latents as dimensions would leave no direction in which the hold could be tested.
        most = min(len(order) - 1, session.dictionary(site).d_model - 2)
        sets = [order[:q] for q in session.config.behaviour.clamp_counts if q <= most] or [order[:most]]
        edits = [session.edit(folded[site], site, tuple(latents)) for latents in sets]
        changed = score_answers(session.pair, edits, given.prompts[benign], given.answers[benign])
        for latents, removed, scores in zip(sets, removed_by(edits), changed, strict=True):
            candidates.append(
                Candidate(site=site, latents=latents, removed=removed, changed_benign=float(scores.changed.mean()))
            )
        session.watcher.progress(k + 1, len(session.sites))
    return candidates


def _removed_by(session: Session, given: _Answers) -> Callable[[Sequence[LatentEdit]], list[float]]:
    """Return what measures `Candidate.removed` of several holds."""
    if not given.forks:
        trigger = slice(given.n_trigger)

        def changed(edits: Sequence[LatentEdit]) -> list[float]:
            found = score_answers(session.pair, edits, given.prompts[trigger], given.answers[trigger])
            return [float(scores.changed.mean()) for scores in found]

        return changed
    forks = [fork for fork, *_ in given.forks.values()]
    prompts = [given.prompts[row] for row in given.forks]
    (plain,) = preferences(session.pair, [text for _, text, _ in given.forks.values()], forks)

    def turned_back(edits: Sequence[LatentEdit]) -> list[float]:
        free, *held = preferences(session.pair, prompts, forks, edits=edits)
        return [float(((free - left) / (free - plain)).clamp(-1, 1).mean()) for left in held]

    return turned_back


def _returned(session: Session, given: _Answers, candidate: Candidate) -> float:
    """Return `Candidate.returned`: let the model write under the hold."""
    edit = session.edit(session.dictionary(candidate.site).fold(), candidate.site, tuple(candidate.latents))
    prompts = [given.prompts[row] for row in given.forks]
    held = continue_clamped(session.pair, edit, prompts, n_new=N_ANSWER_TOKENS)
    back = [
        likeness(g.token_ids, plain) > likeness(g.token_ids, given.answers[row])
        for g, (row, (_, _, plain)) in zip(held, given.forks.items(), strict=True)
    ]
    return sum(back) / len(back)


def _orders(session: Session, given: _Answers, folded: dict[str, Folded]) -> dict[str, list[int]]:
    """Return all latents of each site, those first that carry the trigger's effect and no benign answer."""
    answers = list(given.answers)
    against: list[int | None] = [None] * len(answers)
    for row, (fork, *_) in given.forks.items():
        answers[row], against[row] = (*fork.prefix, fork.switched), fork.plain
    decisive = list(given.forks) or list(range(given.n_trigger))
    carried = attribute_latents(session.pair, folded, given.prompts, answers, against=against)
    orders = {}
    for site, rows in carried.items():
        importance = rows[decisive].mean(0) - rows[given.n_trigger :].mean(0).abs()
        orders[site] = importance.argsort(descending=True, stable=True).tolist()
    return orders


def _ranking(session: Session, site: str) -> Ranking:
    rows = session.rows(site, "selection")
    reading = fit_reading(
        session.dictionary(site),
        rows,
        sizes=session.config.detection.latent_counts,
        seed=derive(session.config.seed, "folds", "diff") % 2**31,
    )
    ranked = select_latents(reading.activations, rows.label, n=N_RANKED)
    return Ranking(
        site=site,
        pooling=reading.pooling,
        latents=ranked.latents,
        auroc=ranked.auroc.tolist(),
        firing_rate=ranked.firing_rate.tolist(),
        inner_auroc=reading.inner_auroc,
    )
