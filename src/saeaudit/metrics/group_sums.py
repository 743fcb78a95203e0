"""Sums of row quantities, kept by group of documents: what every streamed metric here is made of.

Rows of one document are not independent, so intervals resample groups of whole documents. Because a metric is a
function of sums, the sums of each group are all that has to be kept: a resample adds them up with the number of times
each group was drawn, and nothing is read twice. The state is fp64 and only ever added to, so batches may have any size
and come in any order, and two accumulators of the same rows' halves merge into one of the whole.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.metrics.bootstrap import percentile_bounds, resample_weights
from saeaudit.metrics.uncertainty import Estimate, Interval

N_GROUPS = 64
ALL = slice(None)
# A percentile interval from fewer groups is too short to mean what it says.
MIN_GROUPS = 8


Statistic = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class GroupSums:
    """Named fp64 sums "group *shape"; `rows`, the number of rows of each group, is always kept.

    Rows are added on `device`; what is asked of the sums comes to the CPU.
    """

    def __init__(
        self, n_groups: int = N_GROUPS, *, device: torch.device | str = "cpu", **shapes: tuple[int, ...]
    ) -> None:
        self.n_groups = n_groups
        self._sums = {
            name: torch.zeros(n_groups, *shape, dtype=torch.float64, device=device)
            for name, shape in (shapes | {"rows": ()}).items()
        }

    @property
    def n_rows(self) -> int:
        """Number of rows added."""
        return int(self._sums["rows"].sum())

    def add(self, group: Int[Tensor, " row"], **values: Shaped[Tensor, "row ..."]) -> None:
        """Add rows; `group` numbers the documents' group of each row from 0 on."""
        self._sums["rows"].index_add_(0, group, torch.ones_like(group, dtype=torch.float64))
        for name, value in values.items():
            self._sums[name].index_add_(0, group, value.double())

    def add_entries(
        self, name: str, group: Int[Tensor, " entry"], index: Int[Tensor, " entry"], values: Shaped[Tensor, "entry ..."]
    ) -> None:
        """Add entries of a sum "group index *shape" that lie at few of its indices, such as active latents."""
        table = self._sums[name]
        table.flatten(0, 1).index_add_(0, group * table.shape[1] + index, values.double())

    def merge(self, other: "GroupSums") -> None:
        """Add what `other` has seen; both must have been made with the same shapes."""
        for name, value in other._sums.items():
            self._sums[name] += value

    def total(self, name: str) -> Float[Tensor, "..."]:
        """Return a sum over all groups."""
        return self._sums[name].sum(0).cpu()

    def weights(self, *, n_resamples: int, seed: int) -> Float[Tensor, "draw group"]:
        """Return how often each group counts: row 0 counts each once, every other row is a resample.

        Groups without rows are never drawn.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        seen = self._sums["rows"].cpu() > 0
        n_seen = int(seen.sum())
        if n_seen == 0:
            raise EvidenceError("a metric was asked for 0 rows; pass held-out rows", code="no-rows")
        weights = torch.zeros(1 + n_resamples, self.n_groups, dtype=torch.float64)
        weights[0, seen] = 1
        weights[1:, seen] = resample_weights(torch.arange(n_seen), n_resamples=n_resamples, seed=seed)
        return weights

    def weighted(self, name: str, weights: Float[Tensor, "draw group"], at: slice = ALL) -> Float[Tensor, "draw ..."]:
        """Return a sum for each row of `weights`; of a sum "group index *shape" only the indices `at`."""
        value = self._sums[name]
        return torch.tensordot(weights, (value if value.dim() == 1 else value[:, at]).cpu(), dims=1)

    def bounds(self, draws: Float[Tensor, "draw *shape"]) -> Float[Tensor, "2 *shape"]:
        """Return (low, high) of a number from its draws; row 0 is the number itself, as in `weights`.

        NaN where the number is NaN, and everywhere without resamples or if fewer than 8 groups were seen.
        """
        if len(draws) == 1 or int((self._sums["rows"] > 0).sum()) < MIN_GROUPS:
            return draws.new_full((2, *draws.shape[1:]), torch.nan)
        return torch.where(draws[0].isfinite(), percentile_bounds(draws[1:]), torch.nan)

    def estimates(self, statistic: Statistic, *, n_resamples: int, seed: int) -> dict[str, Estimate]:
        """Return named numbers with 95 % intervals; `n` is the number of rows.

        `statistic` maps sums, with a leading axis of draws, to numbers of each draw; NaN where one is not defined.
        """
        weights = self.weights(n_resamples=n_resamples, seed=seed)
        found = statistic({name: self.weighted(name, weights) for name in self._sums})
        out = {}
        for name, draws in found.items():
            low, high = self.bounds(draws).tolist()
            out[name] = Estimate(float(draws[0]), Interval(low, high), self.n_rows)
        return out
