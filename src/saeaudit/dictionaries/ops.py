"""Sparse linear algebra at chosen places, with exact gradients.

A code with k of F latents active needs k/F of the work of the dense formulas, and so do its gradients. The sums are
those of `saeaudit.dictionaries.kernels`: no "nnz width" tensor is built, and the entries are sorted by latent once a
step for both weight gradients.

Rules that keep every positive latent (ReLU, gated, JumpReLU) begin with half of all places, where gathering rows costs
more than multiplying by zeros. Above a share of places the same sums are dense products, equal up to rounding.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from saeaudit.dictionaries.code import Places
from saeaudit.dictionaries.kernels import Kernels, backend, reference


def pre_at(
    pre: Float[Tensor, "batch latent"],
    x: Float[Tensor, "batch width"],
    W: Float[Tensor, "latent width"],
    b: Float[Tensor, " latent"],
    places: Places,
) -> Float[Tensor, " nnz"]:
    """Return entries of `pre = x W^T + b` at `places`, with gradient; those of a rounded `pre` are computed again."""
    if pre.dtype == W.dtype:
        return linear_at(pre.reshape(-1)[places.flat], x, W, b, places)
    return linear_at(dot_at(x, W, places) + b.detach()[places.latents], x, W, b, places)


def linear_at(
    pre: Float[Tensor, " nnz"],
    x: Float[Tensor, "batch width"],
    W: Float[Tensor, "latent width"],
    b: Float[Tensor, " latent"],
    places: Places,
) -> Float[Tensor, " nnz"]:
    """Return `(x W^T + b)` at `places`, where its values `pre` are already known; gradients reach x, W and b.

    A gradient arrives at exactly the chosen places, as dense autograd of the same entries would give. The caller
    clips (ReLU): a place that was clipped sends zero.
    """
    return _LinearAt.apply(pre, x, W, b, places)


def decode_at(
    values: Float[Tensor, " nnz"], W: Float[Tensor, "latent width"], places: Places
) -> Float[Tensor, "batch width"]:
    """Return the sum of rows of `W` weighted by `values`, row by row; gradients reach values and W."""
    if _kernels(places) is reference:
        return reference.bag(values, W, places)  # plain autograd keeps the matrix that the backward pass needs again
    return _DecodeAt.apply(values, W, places)


@torch.no_grad()
def dot_at(y: Float[Tensor, "batch width"], W: Float[Tensor, "latent width"], places: Places) -> Float[Tensor, " nnz"]:
    """Return the dot product of row b of `y` with row j of `W` at each place (b, j); no gradient."""
    return _kernels(places).dots(y, W, places)


def _kernels(places: Places) -> Kernels:
    share = len(places.latents) / max(1, places.n_rows * places.n_latents)
    return backend(places.latents.device, share=share)


class _LinearAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre: Tensor, x: Tensor, W: Tensor, b: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.places = places
        return pre.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        x, W = ctx.saved_tensors
        places: Places = ctx.places
        kernels = _kernels(places)
        _, need_x, need_W, need_b, _ = ctx.needs_input_grad
        return (
            None,
            kernels.bag(grad, W, places) if need_x else None,
            kernels.weight_gradient(grad, x, places) if need_W else None,
            kernels.bias_gradient(grad, places) if need_b else None,
            None,
        )


class _DecodeAt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, W: Tensor, places: Places) -> Tensor:
        ctx.save_for_backward(values, W)
        ctx.places = places
        return _kernels(places).bag(values, W, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (grad,) = grad_outputs
        values, W = ctx.saved_tensors
        places: Places = ctx.places
        kernels = _kernels(places)
        need_values, need_W, _ = ctx.needs_input_grad
        return (
            kernels.dots(grad, W, places) if need_values else None,
            kernels.weight_gradient(values, grad, places) if need_W else None,
            None,
        )
