"""A fixed number of active latents: in each row, on average over the rows, or on average in each range of latents."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries.config import Anneal
from saeaudit.dictionaries.selection import flat_above, largest_values, select_largest
from saeaudit.dictionaries.sparsity import Budget, Chosen, Sparsity
from saeaudit.distributed import ALONE, WHOLE, Grid, Ranks


class _OneBudget(Sparsity):
    """A number `k` for all latents, which may fall over the first steps of training."""

    ranks = True

    def __init__(self, k: int, anneal: Anneal | None = None) -> None:
        super().__init__()
        self.k, self._now, self._anneal = k, k, anneal

    def at_step(self, step: int) -> None:
        anneal, self._now = self._anneal, self.k
        if anneal is not None and step < anneal.steps:
            self._now = round(anneal.start + (self.k - anneal.start) * step / anneal.steps)


class TopK(_OneBudget):
    """The k largest positive scores of each row, in training and at inference (arXiv 2406.04093, section 2.3).

    Latents compete within a row, so none has a cutoff of its own and a frozen view does not exist (`fold()` refuses).
    """

    per_row = True

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        return Chosen(largest_of_rows(pre if weights is None else pre * weights, self._now, grid.latents))

    def active(
        self,
        pre: Float[Tensor, "batch n"],
        weights: Float[Tensor, " n"] | None,
        threshold: Float[Tensor, "#n"] | Float[Tensor, ""],
    ) -> Bool[Tensor, "batch n"]:
        active = torch.zeros(pre.numel(), dtype=torch.bool, device=pre.device)
        active[largest_of_rows(pre if weights is None else pre * weights, self.k)] = True
        return active.view(pre.shape)


class BatchTopK(_OneBudget):
    """The B*k largest scores of a batch in training, a fixed threshold at inference (arXiv 2412.06410, section 3)."""

    threshold_source = "running"
    _last = 0.0  # cutoff of the last batch

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        columns = grid.latents.size
        n = len(pre) * (grid.compete.size // columns) * self._now
        selection = select_largest(pre, n, weights=weights, hint=self._last, ranks=grid.compete, columns=columns)
        self._last = selection.smallest
        return Chosen(selection.flat, (selection.smallest,))

    def cutoffs(self, threshold: Float[Tensor, ""], b_enc: Float[Tensor, " latent"]) -> Float[Tensor, ""]:
        return threshold

    def budgets(self, n_latents: int) -> tuple[Budget, ...]:
        return (Budget(0, n_latents, self.k),)


class RangedBatchTopK(Sparsity):
    """BatchTopK within consecutive ranges of latents, each with a k and a threshold of its own."""

    ranks = True
    threshold_source = "running"

    def __init__(self, budgets: Sequence[Budget]) -> None:
        super().__init__()
        self._budgets = tuple(budgets)
        self._rules = [BatchTopK(budget.k) for budget in budgets]

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        flat: list[Tensor] = []
        smallest: list[float] = []
        for (start, stop, _), rule in zip(self._budgets, self._rules, strict=True):
            part = rule.select(pre[:, start:stop], None if weights is None else weights[start:stop], grid)
            rows = torch.div(part.flat, stop - start, rounding_mode="floor")
            flat.append(part.flat + rows * (pre.shape[1] - (stop - start)) + start)
            smallest.extend(part.smallest)
        return Chosen(torch.cat(flat).sort().values, tuple(smallest))

    def cutoffs(self, threshold: Float[Tensor, " range"], b_enc: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        sizes = torch.tensor([stop - start for start, stop, _ in self._budgets], device=threshold.device)
        return threshold.repeat_interleave(sizes)

    def budgets(self, n_latents: int) -> tuple[Budget, ...]:
        return self._budgets


def largest_of_rows(score: Float[Tensor, "batch n"], k: int, ranks: Ranks = ALONE) -> Int[Tensor, " nnz"]:
    """Return the ascending flat indices of the `k` largest positive scores of each row; ties go to the lowest index.

    Ranks hold other columns of the same rows; each returns the places among its own. They exchange the `k` best scores
    of every row.

    >>> largest_of_rows(torch.tensor([[3.0, 1.0, 2.0, 2.0], [-1.0, 5.0, -2.0, 0.0]]), 2)
    tensor([0, 2, 5])
    """
    score = score.detach()
    best = largest_values(score, min(k, score.shape[1]))
    best = ranks.gather(torch.nn.functional.pad(best, (0, k - best.shape[1])))  # "rank batch k"; a 0 is never chosen
    smallest = best.transpose(0, 1).flatten(1).topk(k, dim=1, sorted=False).values.amin(1).clamp_min(0)
    flat = flat_above(score, torch.nextafter(smallest, torch.zeros_like(smallest)).unsqueeze(1))
    rows = torch.div(flat, score.shape[1], rounding_mode="floor")
    equal = score.take(flat) == smallest[rows]
    n_equal = rows.new_zeros(len(score)).index_add_(0, rows, equal.long())
    before = (best[: ranks.rank] == smallest.unsqueeze(1)).sum((0, 2))
    room = (k - (best > smallest.unsqueeze(1)).sum((0, 2)) - before).clamp_min(0)
    if not bool((n_equal > room).any()):
        return flat
    nth_of_row = equal.cumsum(0) - (n_equal.cumsum(0) - n_equal)[rows]
    return flat[~equal | (nth_of_row <= room[rows])]
