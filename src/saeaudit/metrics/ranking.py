"""Ranking quality of scores: the area under the ROC curve, exact with ties, for one score or thousands of columns.

AUROC is the chance that a trigger row scores above a benign row, ties counting half: 1 is perfect, .5 is chance. It is
read off the rank sum of the trigger rows (Mann and Whitney), so that one sort serves any number of labellings.
"""

import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.stats import norm
from torch import Tensor

from saeaudit.errors import NumericsError
from saeaudit.metrics.bootstrap import bootstrap_interval
from saeaudit.metrics.contrast import require_both_classes
from saeaudit.metrics.uncertainty import Interval


def midranks(scores: Float[Tensor, "row latent"]) -> Float[Tensor, "row latent"]:
    """Return the 1-based rank of each row in its column, equal values sharing the mean of their ranks.

    >>> midranks(torch.tensor([[0.0], [2.0], [0.0]])).flatten().tolist()
    [1.5, 3.0, 1.5]
    """
    values, order = scores.T.contiguous().sort(dim=1)
    n = values.shape[1]
    position = torch.arange(1, n + 1)
    boundary = values[:, 1:] != values[:, :-1]
    edge = torch.ones(values.shape[0], 1, dtype=torch.bool)
    first = torch.where(torch.cat([edge, boundary], 1), position, 0).cummax(1).values
    last = torch.where(torch.cat([boundary, edge], 1), position, n + 1).flip(1).cummin(1).values.flip(1)
    ranks = torch.empty_like(values)
    return ranks.scatter_(1, order, ((first + last) / 2).to(ranks.dtype)).T


def auroc_columns(scores: Float[Tensor, "row latent"], positive: Bool[Tensor, "row"]) -> Float[Tensor, "latent"]:
    """Return the AUROC of every column at once (fp64): 1 is perfect, .5 is chance or a constant column.

    Raises:
        EvidenceError: only one class is present.
        NumericsError: a score is NaN or infinite.
    """
    require_both_classes(positive, "an AUROC")
    if not bool(scores.isfinite().all()):
        raise NumericsError("scores contain NaN or infinity; look for the site and row first", code="non-finite-scores")
    negatives = scores[~positive].T.contiguous().sort(dim=1).values
    positives = scores[positive].T.contiguous()
    # Only the benign rows are sorted: per trigger row, count the benign rows below it and those equal to it.
    below = torch.searchsorted(negatives, positives, out_int32=True)
    below_or_equal = torch.searchsorted(negatives, positives, right=True, out_int32=True)
    pairs = negatives.shape[1] * positives.shape[1]
    return (below.sum(1) + below_or_equal.sum(1)).double() / (2 * pairs)


def auroc(scores: Float[Tensor, "row"], positive: Bool[Tensor, "row"]) -> float:
    """Return the AUROC of one score.

    >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    0.75
    """
    return float(auroc_columns(scores[:, None], positive))


def auroc_interval(
    scores: Float[Tensor, "row"],
    positive: Bool[Tensor, "row"],
    group: Int[Tensor, "row"],
    *,
    n_resamples: int = 2000,
    seed: int,
) -> Interval:
    """Return the 95 % percentile interval of the AUROC, resampling whole groups.

    Where all resamples agree (perfect separation, constant scores) the bootstrap is blind; then the score interval of
    `newcombe_interval` with the numbers of groups is returned.
    """
    require_both_classes(positive, "an AUROC")
    difference = scores[positive].double()[:, None] - scores[~positive].double()[None, :]
    wins = (difference > 0).double() + 0.5 * (difference == 0).double()

    def statistic(weights: Float[Tensor, "resample row"]) -> Float[Tensor, "resample"]:
        up, down = weights[:, positive], weights[:, ~positive]
        return ((up @ wins) * down).sum(1) / (up.sum(1) * down.sum(1))

    interval = bootstrap_interval(statistic, group, n_resamples=n_resamples, seed=seed)
    if interval.high - interval.low > 1e-12:
        return Interval(min(max(interval.low, 0.0), 1.0), min(max(interval.high, 0.0), 1.0))
    n_up, n_down = group[positive].unique().numel(), group[~positive].unique().numel()
    return newcombe_interval(float(wins.mean()), n_up, n_down)


def newcombe_interval(area: float, n_positive: int, n_negative: int, *, confidence: float = 0.95) -> Interval:
    """Return the score interval of an AUROC for independent rows; it has positive width at 0 and 1.

    Method 5 of Newcombe, Statistics in Medicine 25 (2006): all areas t with (t - area)² <= z²·variance(t).
    """
    z = float(norm.ppf((1 + confidence) / 2))
    half = (n_positive + n_negative) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / (n_positive * n_negative)
        return (t - area) ** 2 - z * z * variance

    # At 0 and 1 the variance vanishes, so that the end itself is a root; the other root is wanted.
    inside = min(max(area, 1e-9), 1 - 1e-9)
    low = 0.0 if area <= 0 else float(brentq(excess, 0.0, inside))  # pyright: ignore[reportArgumentType]
    high = 1.0 if area >= 1 else float(brentq(excess, inside, 1.0))  # pyright: ignore[reportArgumentType]
    return Interval(low, high)
