"""Each latent learns the threshold above which it is active (arXiv 2407.14435, section 3).

f = z where z > theta = exp(log_threshold), else 0. The jump has no gradient to theta, so one is estimated with the
rectangle kernel K(u) = 1 for |u| < 1/2 (there, equations 11-12):

    df/dtheta        = -(theta / eps) K((z - theta) / eps)
    d[z > theta]/dtheta = -(1 / eps) K((z - theta) / eps)

Both read z and not f, which is 0 in the lower half of the kernel. Places are therefore needed from theta - eps/2 on.
The gradient to z is the ordinary one; with `straight_through` z also gets the kernel's with the opposite sign, so that
latents near their threshold move as well (Anthropic, January 2025 update).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from saeaudit.dictionaries.code import Places
from saeaudit.dictionaries.selection import flat_above
from saeaudit.dictionaries.sparsity import Chosen, Sparsity
from saeaudit.distributed import WHOLE, Grid


class JumpRelu(Sparsity):
    """Parameter `log_threshold`, "latent".

    Args:
        n_latents: number of latents.
        threshold: theta at the start, scaled units.
        bandwidth: eps, scaled units.
        straight_through: whether z gets the kernel's gradient too.
    """

    threshold_source = "learned"

    def __init__(self, n_latents: int, *, threshold: float, bandwidth: float, straight_through: bool) -> None:
        super().__init__()
        self.log_threshold = nn.Parameter(torch.full((n_latents,), math.log(threshold)))
        self.bandwidth = bandwidth
        self.straight_through = straight_through

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        return Chosen(flat_above(pre, self.log_threshold.detach().exp() - self.bandwidth / 2))

    def values(
        self, z: Float[Tensor, " nnz"], b_enc: Float[Tensor, " latent"], places: Places
    ) -> Float[Tensor, " nnz"]:
        return _Jump.apply(z, self._thresholds(places), self.bandwidth, self.straight_through)

    def mean_l0(self, z: Float[Tensor, " nnz"], places: Places) -> Float[Tensor, ""]:
        """Return the mean number of active latents a row, with the kernel's gradient."""
        return _Step.apply(z, self._thresholds(places), self.bandwidth, self.straight_through).sum() / places.n_rows

    def cutoffs(self, threshold: Float[Tensor, ""], b_enc: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        return self.log_threshold.exp()

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, " latent"]) -> None:
        self.log_threshold.add_(factor.log())

    def _thresholds(self, places: Places) -> Float[Tensor, " nnz"]:
        return self.log_threshold.exp().index_select(0, places.latents)


def _kernel(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    return ((z - theta).abs() < bandwidth / 2) / bandwidth


class _Jump(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float, straight_through: bool) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.settings = bandwidth, straight_through
        return z * (z > theta)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        z, theta = ctx.saved_tensors
        bandwidth, straight_through = ctx.settings
        to_theta = -grad * theta * _kernel(z, theta, bandwidth)
        to_z = grad * (z > theta)
        return to_z - to_theta if straight_through else to_z, to_theta, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float, straight_through: bool) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.settings = bandwidth, straight_through
        return (z > theta).to(z.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        z, theta = ctx.saved_tensors
        bandwidth, straight_through = ctx.settings
        to_theta = -grad * _kernel(z, theta, bandwidth)
        return -to_theta if straight_through else None, to_theta, None, None
