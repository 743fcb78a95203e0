"""Task: train one dictionary on one organism and layer, choose its latents, judge them."""

import time
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from saeaudit.activations import ActivationStore
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.reading import activations
from saeaudit.audit.stages import Watcher
from saeaudit.audit.train_store import Job, train_on_rows
from saeaudit.detection import LatentScorer, PairedRows, fit_latent_detector
from saeaudit.dictionaries import Penalty, load_dictionary
from saeaudit.dictionaries.config import LAMBDA
from saeaudit.findings import DictionaryRow
from saeaudit.isolation_results import Cells, Fit, Status
from saeaudit.studies.isolation.arena import Arena
from saeaudit.studies.isolation.config import DictionaryPlan, IsolationConfig, Member
from saeaudit.studies.isolation.data import activations_path, study_data
from saeaudit.studies.isolation.matching import MATCHED, match_l0


def dictionary_path(member: Member, layer: str, plan: DictionaryPlan) -> str:
    """Return where a dictionary lies, below the study's directory."""
    return f"dictionaries/{member.name}-{layer}-{plan.name}"


def dictionary_cell(
    directory: Path, watcher: Watcher, *, config: dict, member: list, layer: str, dictionary: dict
) -> Cells:
    """Train and judge; a dictionary of which no latent fires on the selection rows is "dead", whatever its scores."""
    settings, who = IsolationConfig.model_validate(config), Member(*member)
    plan = DictionaryPlan.model_validate(dictionary)
    watcher.stage(f"train {who.name} {layer} {plan.name}")
    trained, seconds = _train(directory, watcher, settings, who, layer, plan)
    loaded, since = load_dictionary(directory / dictionary_path(who, layer, plan)), time.monotonic()
    arena = Arena.open(directory, settings, who, layer)
    every = tuple(range(loaded.n_latents))

    def activate(rows: PairedRows, latents: tuple[int, ...]) -> Float[Tensor, "row q"]:
        return activations(loaded, rows, latents, "last")

    codes = activate(arena.selection, every)
    detector = fit_latent_detector(
        codes,
        arena.selection.label,
        arena.selection.group,
        sizes=settings.detection.latent_counts,
        seed=arena.seed("fit", plan.name),
    )
    fires = (codes > 0).float().mean(0)
    cell = arena.judge(
        LatentScorer(plan.name, detector, activate),
        arena.null(fires),
        method=plan.name,
        status=_status(trained, settings.dictionary.k) if bool(fires.any()) else "dead",
        fit=_fit(trained, settings.dictionary.k, len(seconds)),
        train_seconds=sum(seconds),
        since=since,
    )
    return Cells(cells=[cell])


def _train(
    directory: Path, watcher: Watcher, settings: IsolationConfig, who: Member, layer: str, plan: DictionaryPlan
) -> tuple[DictionaryRow, list[float]]:
    """Return the dictionary that lies at its place now, and the seconds of every training that its sparsity took."""
    sizes = settings.dictionary
    store = ActivationStore(directory / activations_path(who.family, who.seed))
    fit, held_out = study_data(directory, settings, who.family).dictionary_rows()
    seconds: list[float] = []

    def train(weight: float | None) -> DictionaryRow:
        config = StoreTraining(
            site=layer,
            kind=plan.kind,
            side=who.name,
            sparsity=plan.sparsity,
            penalty=None if weight is None else Penalty(weight=weight),
            expansion=sizes.expansion,
            k=sizes.k,
            n_samples=sizes.n_samples,
            batch_size=sizes.batch_size,
            lr=sizes.lr,
            seed=settings.seed,
            order_seed=settings.seed,
        )
        job = Job(config, directory / dictionary_path(who, layer, plan))
        cards = store.made_from["models"]
        trained = train_on_rows(store, {plan.name: job}, fit, held_out, cards=cards, watcher=watcher)
        for error in trained.failed.values():
            raise error
        seconds.append(trained.done[plan.name].seconds)
        return trained.done[plan.name]

    if plan.has_exact_k:
        return train(None), seconds
    start = LAMBDA["step" if plan.sparsity == "jumprelu" else plan.sparsity]
    n_trials = settings.n_sparsity_trials
    row, _ = match_l0(train, lambda row: row.l0, wanted=float(sizes.k), start=start, n_trials=n_trials)
    return row, seconds


def _fit(trained: DictionaryRow, k: int, n_trainings: int) -> Fit:
    return Fit(
        n_latents=trained.n_latents,
        l0=trained.l0,
        l0_wanted=float(k),
        fvu=trained.fvu,
        fvu_delta=trained.fvu_delta,
        alive=1 - trained.dead_share,
        n_tokens=trained.n_tokens,
        n_trainings=n_trainings,
    )


def _status(trained: DictionaryRow, k: int) -> Status:
    return "ok" if abs(trained.l0 / k - 1) <= MATCHED else "sparsity-unmatched"
