"""The n largest scores of a batch, exactly, without sorting the batch.

A partial sort of batch x latent scores costs more than the encoder. Scores above a bound a little under the previous
batch's cutoff are few, so: (1) compact the entries above the bound, (2) if there are at least n, the n largest of them
are the n largest of all; (3) otherwise halve the bound, and at last take every positive entry. The bound changes the
time and never the result. Ties go to the lowest flat index. Only positive scores are chosen.

Ranks that hold parts of the batch choose what one process would: the cutoff is found over all of them, and ties are
taken in the order in which one process would meet them.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.order_statistic import nth_largest
from saeaudit.distributed import ALONE, Ranks

_SLACK = 0.95
_MAX_HALVINGS = 8
_ROUNDING = 1 + 1e-5
_PARTITION_ROWS = 256


class Selection(NamedTuple):
    """Chosen entries: ascending flat indices `row * latent_count + latent`, and the smallest chosen score (or 0).

    Of several ranks, each has its own entries; the smallest score is that of all.
    """

    flat: Int[Tensor, " nnz"]
    smallest: float


def select_largest(
    pre: Float[Tensor, "batch latent"],
    n: int,
    *,
    weights: Float[Tensor, " latent"] | None = None,
    hint: float = 0.0,
    ranks: Ranks = ALONE,
    columns: int = 1,
) -> Selection:
    """Return the places of the `n` largest positive `pre * weights`; fewer if fewer are positive.

    Args:
        pre: pre-activations.
        n: number of places for the whole batch, over all ranks.
        weights: one factor > 0 a latent; None means 1.
        hint: guess of the n-th largest score, usually the last batch's; the same on all ranks.
        ranks: processes that hold other parts of the batch.
        columns: neighbouring ranks that hold the latents of the same rows.
    """
    bound, halvings = max(0.0, _SLACK * hint), 0
    while True:
        flat, scores = scores_above(pre, bound, weights=weights)
        smallest = nth_largest(scores, n, ranks)
        # With weights the bound is compared after a division; the margin keeps rounding from hiding an entry.
        if bound == 0 or (smallest is not None and (weights is None or smallest > bound * _ROUNDING)):
            break
        halvings += 1
        bound = bound / 2 if halvings < _MAX_HALVINGS else 0.0
    if smallest is None:
        least = ranks.min(scores.min() if len(scores) else scores.new_tensor(float("inf")))
        return Selection(flat, float(least) if bool(least.isfinite()) else 0.0)
    above, equal = scores > smallest, scores == smallest
    left = n - ranks.sum(above.sum())  # stays on the device: the host need not wait for it
    nth = equal.cumsum(0)
    if ranks.size > 1:
        rows = torch.div(flat, pre.shape[1], rounding_mode="floor")
        nth = nth + _ties_of_others(rows[equal], len(pre), ranks, columns)[rows]
    return Selection(flat[above | (equal & (nth <= left))], smallest)


def _ties_of_others(rows: Int[Tensor, " tie"], n_rows: int, ranks: Ranks, columns: int) -> Int[Tensor, " batch"]:
    """Return for each row how many ties of other ranks one process would meet before those of this rank in it."""
    n_ties = ranks.gather(torch.bincount(rows, minlength=n_rows))  # "rank batch"
    met = n_ties.unflatten(0, (-1, columns)).transpose(1, 2)  # "block batch column"
    before = (met.flatten().cumsum(0).view(met.shape) - met)[ranks.rank // columns, :, ranks.rank % columns]
    own = n_ties[ranks.rank]
    return before - (own.cumsum(0) - own)


class Scores(NamedTuple):
    """Entries above a bound: ascending flat indices and their scores."""

    flat: Int[Tensor, " nnz"]
    scores: Float[Tensor, " nnz"]


def scores_above(
    pre: Float[Tensor, "batch latent"], bound: float, *, weights: Float[Tensor, " latent"] | None = None
) -> Scores:
    """Return the entries whose score `pre * weights` is above `bound` >= 0, up to rounding of one division."""
    limit = bound if weights is None else bound / weights
    flat = flat_above(pre, limit)
    scores = pre.take(flat)
    scores = scores.float() if scores.dtype == torch.bfloat16 else scores
    return Scores(flat, scores if weights is None else scores * weights[flat % pre.shape[1]])


def flat_above(
    pre: Float[Tensor, "batch latent"], limit: float | Float[Tensor, " latent"] | Float[Tensor, "batch 1"]
) -> Int[Tensor, " nnz"]:
    """Return the ascending flat indices of the entries above `limit`: one for all, one a latent, or one a row.

    Of bfloat16 entries only those above a limit >= 0 can be asked.
    """
    if pre.device.type != "cpu":
        return (pre > limit).reshape(-1).nonzero().squeeze(1)
    # numpy compares and compacts 8 times faster than torch on a CPU, and this is the step's second largest cost.
    if pre.dtype == torch.bfloat16:
        # The upper half of a float's bits is the float rounded down, and nothing in bfloat16 lies between the two.
        pre, limit = _bits(pre), (torch.as_tensor(limit).float().view(torch.int32) >> 16).to(torch.int16)
    mask = np.greater(pre.numpy(), limit.numpy() if isinstance(limit, Tensor) else limit)
    return torch.from_numpy(np.flatnonzero(mask))


def largest_values(score: Float[Tensor, "batch n"], k: int) -> Float[Tensor, "batch k"]:
    """Return the `k` largest scores of each row, in no order; of a row with fewer positive ones, some others."""
    if score.device.type != "cpu":
        return score.topk(k, dim=1, sorted=False).values
    # numpy partitions faster than torch on a CPU, and half the bits in a sixth of the time.
    numbers, place = _bits(score) if score.dtype == torch.bfloat16 else score, score.shape[1] - k
    found = score.new_empty(len(score), k)
    for part, out in zip(numbers.split(_PARTITION_ROWS), found.split(_PARTITION_ROWS), strict=True):
        out.copy_(torch.from_numpy(np.partition(part.numpy(), place, axis=1)[:, place:]).view(score.dtype))
    return found


def _bits(x: Tensor) -> Tensor:
    """Return bfloat16 as int16, since numpy has no bfloat16: positive ones are in the same order, others are below."""
    return x.view(torch.int16)
