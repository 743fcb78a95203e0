"""The sums at chosen places as Triton kernels: each gathered row is read once, multiplied and added in registers.

The grid runs over rows first and over slabs of columns second, so that what runs at one time gathers from one slab of
columns of the matrix. A slab of a wide dictionary fits the level-2 cache of a large GPU, and then the matrix comes from
memory once and not once a place. Every sum is taken by one program in a fixed order: no atomics, so results repeat bit
for bit.

bfloat16 and float32 are summed in float32, float64 in float64.
"""

from typing import no_type_check

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.code import Places

_COLUMNS, _ENTRIES = 128, 16


def bag(
    values: Float[Tensor, " nnz"], W: Float[Tensor, "latent width"], places: Places
) -> Float[Tensor, "batch width"]:
    """Return for each row b the sum of `values * W[j]` over its places (b, j)."""
    return _bags(values, W, places.latents, places.offsets)


def dots(y: Float[Tensor, "batch width"], W: Float[Tensor, "latent width"], places: Places) -> Float[Tensor, " nnz"]:
    """Return the dot product of `y[b]` and `W[j]` at each place (b, j)."""
    n, width = len(places.latents), W.shape[1]
    slabs = triton.cdiv(width, _COLUMNS)
    parts = torch.empty(slabs, n, dtype=torch.promote_types(W.dtype, torch.float32), device=W.device)
    if n:
        with torch.cuda.device_of(W):
            _dots_kernel[triton.cdiv(n, _ENTRIES), slabs](  # pyright: ignore[reportIndexIssue]
                y.contiguous(), W.contiguous(), places.rows, places.latents, parts, n, width,
                COLUMNS=_COLUMNS, ENTRIES=_ENTRIES,
            )  # fmt: skip
    return parts.sum(0).to(W.dtype)


def weight_gradient(
    values: Float[Tensor, " nnz"], y: Float[Tensor, "batch width"], places: Places
) -> Float[Tensor, "latent width"]:
    """Return for each latent j the sum of `values * y[b]` over its places (b, j)."""
    order, rows, offsets = places.by_latent
    return _bags(values[order], y, rows, offsets)


def bias_gradient(values: Float[Tensor, " nnz"], places: Places) -> Float[Tensor, " latent"]:
    """Return for each latent the sum of `values` over its places: a bias is the weight of an input that is always 1."""
    return weight_gradient(values, values.new_ones(places.n_rows, 1), places).squeeze(1)


def _bags(
    weights: Float[Tensor, " nnz"],
    W: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " bag_plus_1"],
) -> Float[Tensor, "bag width"]:
    n_bags, width = len(offsets) - 1, W.shape[1]
    out = W.new_empty(n_bags, width)
    if out.numel():
        with torch.cuda.device_of(W):
            _bag_kernel[n_bags, triton.cdiv(width, _COLUMNS)](  # pyright: ignore[reportIndexIssue]
                weights.contiguous(), W.contiguous(), indices, offsets, out, width,
                COLUMNS=_COLUMNS, ENTRIES=_ENTRIES,
            )  # fmt: skip
    return out


@triton.jit
@no_type_check
def _bag_kernel(weights, W, indices, offsets, out, width, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr):
    """Write one slab of columns of one bag."""
    kind = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    i_bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    first, last = tl.load(offsets + i_bag), tl.load(offsets + i_bag + 1)
    total = tl.zeros([COLUMNS], dtype=kind)
    for start in range(first, last, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        here = entries < last
        rows = tl.load(indices + entries, mask=here, other=0)
        weight = tl.load(weights + entries, mask=here, other=0.0).to(kind)
        tile = tl.load(W + rows[:, None] * width + columns[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        total += tl.sum(weight[:, None] * tile.to(kind), axis=0)
    tl.store(out + i_bag * width + columns, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _dots_kernel(y, W, rows, latents, parts, n, width, COLUMNS: tl.constexpr, ENTRIES: tl.constexpr):
    """Write what one slab of columns adds to some dot products."""
    entries = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    here, inside = entries < n, columns < width
    both = here[:, None] & inside[None, :]
    left = tl.load(rows + entries, mask=here, other=0)
    right = tl.load(latents + entries, mask=here, other=0)
    a = tl.load(y + left[:, None] * width + columns[None, :], mask=both, other=0.0)
    b = tl.load(W + right[:, None] * width + columns[None, :], mask=both, other=0.0)
    kind = parts.dtype.element_ty
    part = tl.sum(a.to(kind) * b.to(kind), axis=1)
    tl.store(parts + tl.program_id(1).to(tl.int64) * n + entries, part, mask=here)
