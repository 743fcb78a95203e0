"""What the tuned residual is beyond a linear map of the base residual.

h1 = h0 + Δ is predicted as h0 + (B h0 + b) by ridge regression on benign rows. The penalty pulls B towards 0, that is
the whole map towards the identity, so two identical models leave exactly nothing. The strength is chosen by exact
leave-one-out error, and the spread of the residual is measured on leave-one-out residuals: those of the fit itself are
too small whenever there are about as many rows as coordinates.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.metrics.mahalanobis import Mahalanobis, fit_mahalanobis

RELATIVE_PENALTIES = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e4)


@dataclass(frozen=True)
class AlignedResidual:
    """Residual Δ − (B h0 + b) and its Mahalanobis distance (0 at the benign mean, no upper bound)."""

    weight: Float[Tensor, "d_model d_model"]
    centre: Float[Tensor, "d_model"]
    offset: Float[Tensor, "d_model"]
    distance: Mahalanobis
    penalty_relative: float

    def residual(
        self, h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "row d_model"]:
        """Return the part of Δ that the base residual does not predict (fp64)."""
        return delta.double() - ((h0.double() - self.centre) @ self.weight + self.offset)

    def __call__(self, h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return the squared Mahalanobis distance of the residual of each row."""
        return self.distance(self.residual(h0, delta))


def fit_aligned_residual(h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"]) -> AlignedResidual:
    """Fit the ridge map and the residual's covariance on benign rows.

    Raises:
        EvidenceError: fewer than 4 rows.
    """
    if h0.shape[0] < 4:
        raise EvidenceError(f"an aligned residual was asked for {h0.shape[0]} rows; give at least 4", code="no-rows")
    h0, delta = h0.double(), delta.double()
    n = h0.shape[0]
    centre, offset = h0.mean(0), delta.mean(0)
    x, y = h0 - centre, delta - offset
    values, vectors = torch.linalg.eigh(x @ x.T)
    values = values.clamp(min=0)
    unit = float(values.mean())
    rotated = vectors.T @ y
    best: tuple[float, float, Tensor, Tensor] | None = None
    for relative in RELATIVE_PENALTIES:
        penalty = max(relative * unit, 1e-300)
        shrink = values / (values + penalty)
        leverage = (vectors.square() @ shrink + 1 / n).clamp(max=1 - 1e-9)
        left_out = (y - vectors @ (shrink[:, None] * rotated)) / (1 - leverage)[:, None]
        error = float(left_out.square().sum())
        if best is None or error < best[0]:
            weight = x.T @ (vectors @ (rotated / (values + penalty)[:, None]))
            best = (error, relative, weight, left_out)
    assert best is not None
    _, relative, weight, left_out = best
    return AlignedResidual(weight, centre, offset, fit_mahalanobis(left_out), relative)
