"""Distance from a cloud of rows in units of its own spread, with a covariance that is shrunk to be invertible.

The covariance is the convex mixture of the sample covariance and a multiple of the identity that minimises the expected
squared error (Ledoit and Wolf, 2004), so it is well conditioned even with fewer rows than coordinates.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.errors import EvidenceError


class ShrunkCovariance(NamedTuple):
    """Mean, shrunk covariance (fp64) and the weight of the identity in it, 0..1."""

    mean: Float[Tensor, "d_model"]
    covariance: Float[Tensor, "d_model d_model"]
    shrinkage: float


@dataclass(frozen=True)
class Mahalanobis:
    """Squared Mahalanobis distance to the rows it was fitted on: 0 at the mean, d_model on average, no upper bound."""

    mean: Float[Tensor, "d_model"]
    precision: Float[Tensor, "d_model d_model"]

    def __call__(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return the squared distance of each row (fp64)."""
        centred = x.double() - self.mean
        return ((centred @ self.precision) * centred).sum(1)


def ledoit_wolf(x: Float[Tensor, "row d_model"]) -> ShrunkCovariance:
    """Return the Ledoit-Wolf covariance of the rows.

    Raises:
        EvidenceError: fewer than 2 rows.
    """
    if x.shape[0] < 2:
        raise EvidenceError(f"a covariance was asked for {x.shape[0]} rows; at least 2 are needed", code="no-rows")
    x = x.double()
    n, d = x.shape
    mean = x.mean(0)
    centred = x - mean
    sample = centred.T @ centred / n
    level = sample.diagonal().mean()
    distance = (sample - level * torch.eye(d, dtype=x.dtype)).square().sum()
    if float(distance) <= 0:
        return ShrunkCovariance(mean, sample, 0.0)
    noise = ((centred.square().sum(1).square().sum() / n) - sample.square().sum()) / n
    shrinkage = float((noise.clamp(min=0) / distance).clamp(max=1))
    covariance = (1 - shrinkage) * sample
    covariance.diagonal().add_(shrinkage * level)
    return ShrunkCovariance(mean, covariance, shrinkage)


def stable_precision(covariance: Float[Tensor, "d_model d_model"]) -> Float[Tensor, "d_model d_model"]:
    """Return the inverse of a covariance, its eigenvalues raised to 1e-10 of the largest; the identity for zero.

    Zero covariance is what identical models give; the identity keeps every distance finite and 0 at the mean.
    """
    values, vectors = torch.linalg.eigh(covariance.double())
    largest = float(values[-1])
    if largest <= 0:
        return torch.eye(covariance.shape[0], dtype=torch.float64)
    return (vectors / values.clamp(min=1e-10 * largest)) @ vectors.T


def fit_mahalanobis(x: Float[Tensor, "row d_model"]) -> Mahalanobis:
    """Fit `Mahalanobis` to the rows (for detection: benign rows only)."""
    shrunk = ledoit_wolf(x)
    return Mahalanobis(shrunk.mean, stable_precision(shrunk.covariance))
