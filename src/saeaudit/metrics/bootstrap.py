"""Percentile bootstrap with groups (templates) as the resampling unit.

A resample is a vector of weights: how often each row appears. A statistic is a function of all weight vectors at once,
so that B resamples are one matrix product instead of B loops. Resamples in which the statistic is not defined (no
trigger row was drawn) must come back as NaN and are left out.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.metrics.uncertainty import Interval
from saeaudit.seeds import torch_generator


def resample_weights(group: Int[Tensor, "row"], *, n_resamples: int = 2000, seed: int) -> Float[Tensor, "resample row"]:
    """Return how often each row appears when whole groups are drawn with replacement (fp64).

    Rows of one group always have equal weight; the weights of the groups sum to the number of groups.
    """
    _, index = torch.unique(group, return_inverse=True)
    n_groups = int(index.max()) + 1
    generator = torch_generator(seed, "metrics", "bootstrap")
    drawn = torch.randint(n_groups, (n_resamples, n_groups), generator=generator)
    counts = torch.zeros(n_resamples, n_groups, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return counts[:, index]


def percentile_interval(samples: Float[Tensor, "resample"], *, confidence: float = 0.95) -> Interval:
    """Return the central `confidence` range of the finite samples, linear interpolation.

    Raises:
        EvidenceError: fewer than half of the samples are finite.
    """
    low, high = percentile_bounds(samples, confidence=confidence).tolist()
    if math.isnan(low):
        raise EvidenceError(
            f"only {int(samples.isfinite().sum())} of {samples.numel()} resamples define the statistic; there are too "
            "few groups with rows of both classes, give more templates",
            code="bootstrap-undefined",
        )
    return Interval(low, high)


def percentile_bounds(
    samples: Float[Tensor, "resample *shape"], *, confidence: float = 0.95
) -> Float[Tensor, "2 *shape"]:
    """Return (low, high) of `percentile_interval` for many statistics; NaN where fewer than half are finite."""
    finite = samples.isfinite()
    kept = torch.where(finite, samples.double(), torch.inf).movedim(0, -1).contiguous()
    ordered = torch.from_numpy(np.sort(kept.numpy(), axis=-1))  # many times as fast as torch's sort
    last = finite.sum(0)[..., None] - 1
    tail = (1 - confidence) / 2
    rank = last * torch.tensor([tail, 1 - tail], dtype=torch.float64)
    below = rank.long().clamp(min=0)
    above = torch.minimum(below + 1, last.clamp(min=0))
    bounds = ordered.gather(-1, below).lerp(ordered.gather(-1, above), rank - below).movedim(-1, 0)
    return torch.where(2 * finite.sum(0) < len(samples), torch.nan, bounds)


def bootstrap_interval(
    statistic: Callable[[Float[Tensor, "resample row"]], Float[Tensor, "resample"]],
    group: Int[Tensor, "row"],
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int,
) -> Interval:
    """Return the percentile interval of `statistic(weights)` under resampling of whole groups."""
    weights = resample_weights(group, n_resamples=n_resamples, seed=seed)
    return percentile_interval(statistic(weights), confidence=confidence)


def weighted_mean(values: Float[Tensor, "row"], weights: Float[Tensor, "resample row"]) -> Float[Tensor, "resample"]:
    """Return the mean of `values` in each resample; NaN where all weights are 0."""
    return (weights @ values.double()) / weights.sum(1)
