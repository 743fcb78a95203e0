"""What tuning did to a row beyond a linear map of the base residual, fitted where anomalies may hide in the fit.

Δ is predicted from h0 by ridge regression towards 0, that is the tuned model towards the base. Three times the rows
with the largest residual are left out of the fit, so that a change on few tokens is not absorbed by the map or the
covariance. The spread is measured on leave-one-out residuals. Unlike `fit_aligned_residual` of the metrics this
works on the d_model x d_model Gram matrix: a corpus has many more rows than coordinates, and none is known as benign.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.metrics import Mahalanobis, fit_mahalanobis

RELATIVE_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e3)
N_TRIMS = 3
TRIMMED_SHARE = 0.01
VALIDATE_EVERY = 4


class TrimmedAlignment(NamedTuple):
    """Ridge map from h0 to Δ and the distance of its residual (0 at the mean, no upper bound)."""

    weight: Float[Tensor, "d_model d_model"]
    centre: Float[Tensor, "d_model"]
    offset: Float[Tensor, "d_model"]
    distance: Mahalanobis

    def __call__(self, h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return the squared Mahalanobis distance of each row's residual (fp64)."""
        return self.distance(delta.double() - (h0.double() - self.centre) @ self.weight - self.offset)


def fit_trimmed_alignment(
    h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"], *, block: int = 64
) -> TrimmedAlignment:
    """Fit the map on rows in document order; the penalty is chosen by every fourth block of `block` rows.

    Source: method note on trigger-free audits, step A3 (three rounds that drop the 1 % largest residuals).
    """
    h0, delta = h0.double(), delta.double()
    penalty = _penalty(h0, delta, block)
    kept = torch.ones(len(h0), dtype=torch.bool)
    n_drop = max(1, round(TRIMMED_SHARE * len(h0)))
    for _ in range(N_TRIMS):
        ridge = _ridge(h0[kept], delta[kept], penalty)
        energy = (delta - (h0 - ridge.centre) @ ridge.weight - ridge.offset).square().sum(1)
        kept = torch.ones_like(kept)
        kept[energy.topk(n_drop).indices] = False
    weight, centre, offset, inverse = _ridge(h0[kept], delta[kept], penalty)
    x = h0[kept] - centre
    leverage = ((x @ inverse) * x).sum(1) + 1 / len(x)
    left_out = (delta[kept] - x @ weight - offset) / (1 - leverage).clamp(min=1e-9)[:, None]
    return TrimmedAlignment(weight, centre, offset, fit_mahalanobis(left_out))


class _Ridge(NamedTuple):
    weight: Tensor
    centre: Tensor
    offset: Tensor
    inverse: Tensor


def _penalty(h0: Tensor, delta: Tensor, block: int) -> float:
    """Return the relative penalty with the smallest trimmed error on held-out blocks."""
    block = min(block, max(1, len(h0) // (2 * VALIDATE_EVERY)))
    held_out = (torch.arange(len(h0)) // block) % VALIDATE_EVERY == 0
    x, y = h0[~held_out], delta[~held_out]
    centre, offset = x.mean(0), y.mean(0)
    product = (x - centre).T @ (y - offset)
    values, vectors = torch.linalg.eigh((x - centre).T @ (x - centre))
    unit = values.clamp(min=0).mean().clamp(min=1e-300)
    rotated, seen = vectors.T @ product, (h0[held_out] - centre) @ vectors
    best, chosen = float("inf"), RELATIVE_PENALTIES[-1]
    for relative in RELATIVE_PENALTIES:
        prediction = seen @ (rotated / (values.clamp(min=0) + relative * unit)[:, None])
        energy = (delta[held_out] - offset - prediction).square().sum(1).sort().values
        error = float(energy[: len(energy) - round(TRIMMED_SHARE * len(energy))].sum())
        if error < best:
            best, chosen = error, relative
    return chosen


def _ridge(x: Tensor, y: Tensor, relative: float) -> _Ridge:
    centre, offset = x.mean(0), y.mean(0)
    x = x - centre
    gram = x.T @ x
    gram.diagonal().add_(relative * gram.diagonal().mean().clamp(min=1e-300))
    inverse = torch.linalg.inv(gram)
    return _Ridge(inverse @ (x.T @ (y - offset)), centre, offset, inverse)
