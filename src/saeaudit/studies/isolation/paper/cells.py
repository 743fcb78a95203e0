"""The pooled experiment of arXiv 2605.07324 on given rows: one cell a method, with what the paper leaves out beside it.

Rows are texts; `h0` and `delta` are means over all tokens of prompt and completion. As in the paper, one set of rows
trains the dictionary, sets the thresholds (95th percentile of all rows), selects the best latent and scores it. Beside
the score stand its ceiling, what the best of as many latents reaches by chance, and how many latents are alive. This is
a reproduction of an experiment that cannot answer its question; `faults` says why.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.detection import PairedRows
from saeaudit.metrics import (
    Interval,
    PaperBis,
    bis_ceiling,
    bis_resamples,
    latent_permutation,
    n_above_quantile,
    null_best_of,
    paper_bis,
    percentile_interval,
    resample_weights,
)
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.methods import fit_method
from saeaudit.studies.isolation.paper.names import METHODS, PaperMethod

_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class PaperCell:
    """One method on one set of rows. Rates and scores are in 0..1; those of a cell that is not "ok" are None.

    Attributes:
        method: what was scored.
        status: "dead": no latent ever fires; "constant": none is ever above its own threshold, because none varies
            there; neither is a finding about the backdoor.
        bis: of the best latent.
        precision, recall, benign_fpr: its parts; the rows of `other` are in the precision only.
        interval: 95 % of the bootstrap over rows: thresholds found anew, the latent kept.
        latent: the best one.
        ceiling: largest BIS that any latent could have here.
        by_chance: mean BIS of the best of `n_latents` that ignore the label.
        n_latents: candidates.
        n_alive: those that fire on some row.
        n_above_0: those with a BIS above 0.
        n_near_ceiling: those within 5 % of the ceiling.
        l0: mean number that fires on a row.
        fvu: share of the variance of what a dictionary reads that it misses (0 is perfect); None for the controls.
        n_rows: rows, all cells.
        scores: BIS of every latent.
    """

    method: PaperMethod
    status: Literal["ok", "dead", "constant"]
    bis: float | None
    precision: float | None
    recall: float | None
    benign_fpr: float | None
    interval: Interval | None
    latent: int | None
    ceiling: float
    by_chance: float
    n_latents: int
    n_alive: int
    n_above_0: int
    n_near_ceiling: int
    l0: float
    fvu: float | None
    n_rows: int
    scores: Float[Tensor, " latent"]


def paper_cell(rows: PairedRows, method: PaperMethod, config: PaperConfig | None = None) -> PaperCell:
    """Run one method of the experiment.

    Args:
        rows: of the classes `trigger`, `benign` and `other`; `label` is True for `trigger`.
        method: a dictionary, which is trained here, or a control.
        config: sizes.

    Raises:
        EvidenceError: there are no trigger or no benign rows.
        NumericsError: what a dictionary reads is constant, as where both models are equal.
    """
    config = config or PaperConfig()
    fitted = fit_method(rows, method, config)
    activations = fitted.activate(rows)
    benign = benign_rows(rows)
    found = score_latents(activations, rows.label, benign, tail=config.tail)
    fires = activations != 0
    n_alive = int(fires.any(0).sum())
    status = "dead" if n_alive == 0 else "constant" if not bool(found.n_active.any()) else "ok"
    best, is_ok = found.best, status == "ok"
    ceiling = ceiling_of(rows, tail=config.tail)
    return PaperCell(
        method=method,
        status=status,
        bis=float(found.bis[best]) if is_ok else None,
        precision=float(found.precision[best]) if is_ok else None,
        recall=float(found.recall[best]) if is_ok else None,
        benign_fpr=float(found.benign_fpr[best]) if is_ok else None,
        interval=_interval(activations[:, best], rows.label, benign, config) if is_ok else None,
        latent=best if is_ok else None,
        ceiling=ceiling,
        by_chance=_by_chance(rows, activations.shape[1], config),
        n_latents=activations.shape[1],
        n_alive=n_alive,
        n_above_0=int((found.bis > 0).sum()),
        n_near_ceiling=int((found.bis >= 0.95 * ceiling).sum()),
        l0=float(fires.sum(1).double().mean()),
        fvu=fitted.fvu,
        n_rows=len(rows),
        scores=found.bis,
    )


def paper_table(
    rows: PairedRows, config: PaperConfig | None = None, *, methods: Sequence[PaperMethod] = METHODS
) -> dict[PaperMethod, PaperCell]:
    """Return the cells of several methods on the same rows."""
    return {method: paper_cell(rows, method, config) for method in methods}


def paper_permutation(first: PaperCell, second: PaperCell, config: PaperConfig | None = None) -> float:
    """Return the paper's p-value for the difference of two methods; it is no test of them (W8)."""
    config = config or PaperConfig()
    return latent_permutation(first.scores, second.scores, n_permutations=config.n_permutations, seed=config.seed)


def variance_ratio(rows: PairedRows) -> float:
    """Return var(delta) / var(h0), each summed over coordinates: how small a change is, from 0."""
    return float(rows.delta.double().var(0).sum() / rows.h0.double().var(0).sum())


def benign_rows(rows: PairedRows) -> Bool[Tensor, " row"]:
    """Return which rows count for the false-positive rate: the cell `benign`, without `other`."""
    return torch.tensor([klass == "benign" for klass in rows.klass])


def ceiling_of(rows: PairedRows, *, tail: float = 0.05) -> float:
    """Return the largest BIS possible on these rows; negatives above the threshold are taken to be `other`."""
    n = len(rows)
    return bis_ceiling(float(rows.label.double().mean()), n_above_quantile(n, tail=tail) / n)


def score_latents(
    activations: Float[Tensor, "row latent"],
    trigger: Bool[Tensor, " row"],
    benign: Bool[Tensor, " row"],
    *,
    tail: float,
) -> PaperBis:
    """Return `paper_bis` of any number of latents in bounded memory."""
    parts = activations.split(max(1, _CHUNK_BYTES // (8 * len(activations))), dim=1)
    scored = [paper_bis(part, trigger, benign, tail=tail) for part in parts]
    return PaperBis(*(torch.cat(values) for values in zip(*scored, strict=True)))


def _interval(column: Tensor, trigger: Tensor, benign: Tensor, config: PaperConfig) -> Interval:
    weights = resample_weights(torch.arange(len(column)), n_resamples=config.n_resamples, seed=config.seed)
    resamples = bis_resamples(column[:, None], trigger, benign, weights=weights, tail=config.tail)
    return percentile_interval(resamples[:, 0])


def _by_chance(rows: PairedRows, n_latents: int, config: PaperConfig) -> float:
    n_trigger, n_benign = int(rows.label.sum()), int(benign_rows(rows).sum())
    n_other = len(rows) - n_trigger - n_benign
    draws = null_best_of(
        n_latents,
        n_trigger=n_trigger,
        n_benign=n_benign,
        n_other=n_other,
        tail=config.tail,
        n_draws=config.n_null,
        seed=config.seed,
    )
    return float(draws.mean())
