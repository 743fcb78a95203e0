"""Faults of the score itself: its ceiling, who reaches it, what chance reaches, and its test of significance."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import hypergeom

from saeaudit.metrics import (
    auroc,
    bis_ceiling,
    bis_resamples,
    latent_permutation,
    n_above_quantile,
    null_best_of,
    paper_bis,
    percentile_interval,
    resample_weights,
)
from saeaudit.paper_results import Fault
from saeaudit.studies.isolation.faults.tables import Table, bis_of, share_of_ceiling
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.names import PaperMethod

N_TRIGGER, N_BENIGN, N_OTHER = 500, 1000, 1000
N_ROWS = N_TRIGGER + N_BENIGN + N_OTHER
PAPER_WIDTHS = (1, 3840, 30720)


def ceiling(prevalences: Sequence[float] = (0.01, 0.05, 0.2, 0.5), tails: Sequence[float] = (0.05, 0.1, 0.2)) -> Fault:
    """W1: score a planted perfect latent over a grid of prevalence and tail."""
    largest_error = 0.0
    found: dict[str, float] = {}
    for prevalence in prevalences:
        for tail in tails:
            n_trigger = round(prevalence * N_ROWS)
            trigger = torch.arange(N_ROWS) < n_trigger
            # The negatives of the lower half count as benign, so that what spills over is "other".
            scored = paper_bis(
                torch.arange(N_ROWS, 0, -1.0)[:, None],
                trigger,
                torch.arange(N_ROWS) >= (N_ROWS + n_trigger) // 2,
                tail=tail,
            )
            limit = bis_ceiling(n_trigger / N_ROWS, n_above_quantile(N_ROWS, tail=tail) / N_ROWS)
            largest_error = max(largest_error, abs(float(scored.bis) - limit))
            found[f"share {prevalence:g}, tail {tail:g}"] = float(scored.bis)
    return Fault(
        id="W1",
        claim="The largest possible BIS is set by the share of trigger rows and the tail, not by the detector.",
        computed="BIS of a latent that ranks every trigger row first, for a grid of both",
        expected="2 min(a, p) / (a + p): .40 in the paper's set, 1 at a share of .05, .18 at .5, .33 at .01",
        found=found | {"largest deviation from the formula": largest_error},
        n={"rows": N_ROWS, "active at tail 0.05": n_above_quantile(N_ROWS)},
        survives="wherever a threshold is a quantile of the rows that are scored; not at a calibrated threshold",
        confirmed=largest_error < 1e-9,
    )


def poor_score_at_the_ceiling(config: PaperConfig) -> Fault:
    """W2, planted: a detector that misses three quarters of the triggers, a perfect one, and a perfect binary one."""
    trigger = torch.arange(N_ROWS) < N_TRIGGER
    perfect = torch.arange(N_ROWS, 0, -1.0)
    poor = perfect.flip(0)
    n_active = n_above_quantile(N_ROWS)
    poor[:n_active] += N_ROWS  # the other trigger rows rank below every negative
    columns = torch.stack([perfect, poor, trigger.float()], dim=1)
    benign = torch.arange(N_ROWS) >= N_ROWS - N_BENIGN
    bis = paper_bis(columns, trigger, benign).bis.tolist()
    weights = resample_weights(torch.arange(N_ROWS), n_resamples=config.n_resamples, seed=config.seed)
    low, high = percentile_interval(bis_resamples(columns[:, :1], trigger, benign, weights=weights)[:, 0])
    areas = [auroc(column, trigger) for column in columns.T]
    return Fault(
        id="W2",
        claim="Any score that ranks 125 trigger rows first reaches the ceiling; a perfect yes-or-no score gets 0.",
        computed="BIS and AUROC of planted scores: perfect, 375 of 500 triggers ranked last, the label itself",
        expected="BIS .400, .400 and 0, at AUROC 1, .25 and 1; the perfect score's bootstrap interval is the published "
        ".374 to .426, which therefore says only how many trigger rows were drawn",
        found={
            f"{measure} {name}": value
            for measure, values in (("BIS", bis), ("AUROC", areas))
            for name, value in zip(("perfect", "poor", "the label"), values, strict=True)
        }
        | {"interval of perfect, low": low, "interval of perfect, high": high},
        n={"rows": N_ROWS, "trigger": N_TRIGGER, "active": n_active, "resamples": config.n_resamples},
        survives="on any rows; a strict threshold leaves no row above it where more than the tail tie at the top",
        confirmed=bool(np.allclose(bis, [0.4, 0.4, 0.0]) and np.allclose(areas, [1, 0.25, 1])),
    )


def ceiling_is_reached(table: Table) -> Fault:
    """W2, on rows of a model: what reaches the ceiling beside the Diff-SAE."""
    simple: tuple[PaperMethod, ...] = ("mean-difference", "difference-norm", "random-directions", "year-share")
    methods: tuple[PaperMethod, ...] = ("diff-32x", "diff-4x", *simple)
    shares = {method: share_of_ceiling(table.get(method)) for method in methods}
    any_cell = next(iter(table.values()))
    return Fault(
        id="W2",
        claim="What reaches the ceiling needs no dictionary, no label or not even a model.",
        computed="BIS on the pooled rows of the poisoned model",
        expected="at least two simple scores within 5 % of the ceiling",
        found=bis_of(table, *methods) | {"ceiling": any_cell.ceiling},
        n={"rows": any_cell.n_rows},
        survives="at every site where the share of the ceiling is near 1; see the same at the last prompt token",
        confirmed=sum(shares[method] >= 0.95 for method in simple) >= 2,
    )


def best_of_law(n_latents: int, *, n_trigger: int, n_benign: int, n_other: int = 0, tail: float = 0.05) -> float:
    """Return the exact mean of the largest BIS of `n_latents` independent latents that ignore the label.

    A latent's counts of active trigger and benign rows are multivariate hypergeometric, so one BIS has a known law, and
    the largest of F has its distribution function to the power of F.
    """
    n_rows = n_trigger + n_benign + n_other
    n_active = n_above_quantile(n_rows, tail=tail)
    hits = np.arange(min(n_active, n_trigger) + 1)[:, None]
    false = np.arange(min(n_active, n_benign) + 1)[None, :]
    share = hypergeom.pmf(hits, n_rows, n_trigger, n_active)
    share = share * hypergeom.pmf(false, n_rows - n_trigger, n_benign, n_active - hits)
    bis = 2 * hits / (n_active + n_trigger) * (1 - false / n_benign)
    order = np.argsort(bis, axis=None)
    below = np.cumsum(share.ravel()[order]).clip(0, 1) ** n_latents
    return float(np.diff(below, prepend=0.0) @ bis.ravel()[order])


def best_of_many(config: PaperConfig, widths: Sequence[int] = PAPER_WIDTHS) -> Fault:
    """W3: what the best of F latents reaches when there is nothing to find, simulated and exact."""
    found: dict[str, float | None] = {}
    error = 0.0
    for width in widths:
        sizes = {"n_trigger": N_TRIGGER, "n_benign": N_BENIGN, "n_other": N_OTHER}
        n_draws = config.n_null if width > 1 else 40 * config.n_null
        simulated = float(null_best_of(width, **sizes, tail=config.tail, n_draws=n_draws, seed=config.seed).mean())
        exact = best_of_law(width, **sizes, tail=config.tail)
        found |= {f"best of {width}, simulated": simulated, f"best of {width}, exact": exact}
        error = max(error, abs(simulated - exact))
    return Fault(
        id="W3",
        claim="The best of many latents scores well above a single one when no latent knows the label.",
        computed="mean of the largest BIS of F latents that are active on random rows; the exact law beside it",
        expected="one latent .076, best of 3,840 .128, best of 30,720 .136; simulated within .003 of exact",
        found=found | {"largest deviation": error},
        n={"rows": N_ROWS, "draws": config.n_null},
        survives="in every score that is chosen and reported on the same rows; a null must repeat the choice",
        confirmed=error < 0.003,
    )


def permuted_latents(config: PaperConfig, *, n_latents: int = 1000) -> Fault:
    """W8: the paper's permutation test on two planted cases with the same gap."""
    poor, one_good = torch.full((2, n_latents), 0.1)
    one_good[0] = 0.4
    many_good = torch.full((n_latents,), 0.4)
    n_permutations = min(config.n_permutations, 1000)
    p = [
        latent_permutation(good, poor, n_permutations=n_permutations, seed=config.seed)
        for good in (one_good, many_good)
    ]
    return Fault(
        id="W8",
        claim="Permuting latents between two methods does not test the methods; the noise of the rows never enters.",
        computed="p-value of a gap of .30 where one latent is good, and where all are",
        expected="p near 1 and p near 0 for the same gap",
        found={"gap": 0.3, "p, one good latent": p[0], "p, all latents good": p[1]},
        n={"latents": n_latents, "permutations": n_permutations},
        survives="for any number of rows, since the test does not see them; a paired bootstrap of rows does",
        confirmed=p[0] > 0.9 and p[1] < 0.05,
    )
