"""The directions in which a perturbation may move without moving the clamped latents' pre-activations.

With A_S the encoder rows of the clamped latents, a perturbation with A_S @ delta = 0 at the clamp's own site leaves
every clamped pre-activation where the clamp put it. The span of A_S is found by an SVD of the row-normalised stack in
fp64 (rows differ in norm by orders of magnitude, so normalising first makes the rank decision scale-free), and
projection is v - (v Q) Q^T, applied twice: one pass leaves an error of order eps * |v| along nearly parallel rows.
Source: arXiv 2606.18322 in its exact form; a ridge-regularised projector, as in released code, leaks along
near-duplicate rows.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.errors import ConfigError

RELATIVE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class NullSpace:
    """Orthonormal basis of the protected span.

    Attributes:
        protected: "d_model rank", orthonormal columns that span the protected rows.
    """

    protected: Float[Tensor, "d_model rank"]

    @property
    def rank(self) -> int:
        """Number of protected directions."""
        return self.protected.shape[1]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.protected.shape[0]

    def project(self, v: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Return `v` without its part in the protected span, in fp32."""
        v = v.float()
        for _ in range(2):
            v = v - (v @ self.protected) @ self.protected.T
        return v


def null_space(rows: Float[Tensor, "latent d_model"]) -> NullSpace:
    """Return the null space of encoder rows (add decoder rows for the stricter constraint); rows of zeros are ignored.

    Raises:
        ConfigError: the rows leave no direction, or a single one, free (code `no-null-space`).
    """
    exact = rows.double()
    exact = exact[exact.norm(dim=1) > 0]
    if exact.shape[0] == 0:
        return NullSpace(torch.zeros(rows.shape[1], 0))
    _, singular, right = torch.linalg.svd(exact / exact.norm(dim=1, keepdim=True), full_matrices=False)
    kept = right[singular > RELATIVE_TOLERANCE * singular[0]]
    if kept.shape[0] >= rows.shape[1] - 1:
        raise ConfigError(
            f"the clamped latents span {kept.shape[0]} of {rows.shape[1]} dimensions, so no direction is free to "
            "search; clamp fewer latents",
            code="no-null-space",
        )
    return NullSpace(kept.T.float().contiguous())
