"""Principal components of benign rows, and how far a new row sticks out along them or away from them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.errors import EvidenceError


@dataclass(frozen=True)
class Pca:
    """Mean, orthonormal components (rows), and the standard deviation along each (> 0)."""

    mean: Float[Tensor, "d_model"]
    components: Float[Tensor, "component d_model"]
    deviation: Float[Tensor, "component"]

    def largest_z(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return the largest |z| over the components; 0 is the mean, no upper bound; 0 without components."""
        if self.components.shape[0] == 0:
            return torch.zeros(x.shape[0], dtype=torch.float64)
        return (((x.double() - self.mean) @ self.components.T) / self.deviation).abs().amax(1)

    def residual_energy(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return the squared distance to the span of the components; 0 lies in it."""
        centred = x.double() - self.mean
        return (centred - (centred @ self.components.T) @ self.components).square().sum(1)


def fit_pca(x: Float[Tensor, "row d_model"], *, n_components: int = 32) -> Pca:
    """Fit at most `n_components` components; those without spread are left out.

    Raises:
        EvidenceError: fewer than 2 rows.
    """
    if x.shape[0] < 2:
        raise EvidenceError(f"components were asked for {x.shape[0]} rows; at least 2 are needed", code="no-rows")
    x = x.double()
    mean = x.mean(0)
    _, singular, rows = torch.linalg.svd(x - mean, full_matrices=False)
    # Half of the row rank at most: with as many components as rows nothing would be left for the residual.
    n_kept = min(n_components, max(1, (x.shape[0] - 1) // 2))
    kept = singular[:n_kept] > 1e-9 * singular[0].clamp(min=1e-300)
    deviation = singular[:n_kept][kept] / (x.shape[0] - 1) ** 0.5
    return Pca(mean, rows[:n_kept][kept], deviation)
