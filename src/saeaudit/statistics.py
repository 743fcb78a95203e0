"""Mean and scale of activations at a site, streamed batch by batch.

Batches are merged with the pairwise update of Chan, Golub and LeVeque (1983); the state is fp64, so a mean of 1e3 with
a deviation of 1e-2 survives any number of batches. A fitter (`StatisticsFitter`) yields a frozen result.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from saeaudit.errors import NumericsError

# A deviation below this share of the mean is rounding of the fp64 state: fp32 values that vary do so by 1e-8.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class SiteStatistics:
    """Centre and scale of one site.

    Attributes:
        mean: "... d_model", the mean activation (leading axis `side` for paired data).
        scale: "...", root of the mean squared deviation per coordinate, one scalar a side; > 0.
        count: number of rows seen.
    """

    mean: Tensor
    scale: Tensor
    count: int


class StatisticsFitter:
    """Accumulate `SiteStatistics` from batches of shape "batch ... d_model"."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Tensor | None = None
        self._squares: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Add a batch "batch ... d_model"; a batch without rows changes nothing."""
        n = x.shape[0]
        if n == 0:
            return
        x = x.double()
        mean = x.mean(0)
        squares = (x - mean).square().sum(0)
        if self._mean is None or self._squares is None:
            self._mean, self._squares, self._count = mean, squares, n
            return
        if mean.shape != self._mean.shape:
            raise ValueError(f"batches of rows {tuple(self._mean.shape)} are followed by rows {tuple(mean.shape)}")
        total = self._count + n
        step = mean - self._mean
        self._mean = self._mean + step * (n / total)
        self._squares = self._squares + squares + step.square() * (self._count * n / total)
        self._count = total

    def result(self) -> SiteStatistics:
        """Return the frozen statistics.

        Raises:
            NumericsError: fewer than 2 rows were seen (`no-rows`), or the activations are constant or not finite (for a
                difference: the two models agree exactly here, so there is nothing to train on).
        """
        if self._mean is None or self._squares is None or self._count < 2:
            raise NumericsError(
                f"mean and scale need at least 2 rows of activations, found {self._count}; give more text",
                code="no-rows",
            )
        scale = (self._squares.mean(-1) / self._count).sqrt()
        smallest = _ROUNDING * self._mean.square().mean(-1).sqrt()
        if not bool((torch.isfinite(scale) & (scale > smallest)).all()):
            raise NumericsError(
                "the activations are constant or not finite at this site; for a difference this means that the two "
                "models are identical here; choose another site or check the models",
                code="degenerate-activations",
            )
        return SiteStatistics(self._mean.float(), scale.float(), self._count)
