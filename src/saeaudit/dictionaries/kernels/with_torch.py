"""The sums at chosen places by torch's `embedding_bag`, which gathers no "nnz width" tensor.

The weight gradient is a *transposed bag*: entries are sorted by latent once a step, and row j is the weighted sum of
the batch rows in which latent j is active. Each row is one sequential sum, so results repeat bit for bit; on a GPU all
but the bias gradient, which needs `torch.use_deterministic_algorithms` for that.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag

from saeaudit.dictionaries.code import Places


def bag(
    values: Float[Tensor, " nnz"], W: Float[Tensor, "latent width"], places: Places
) -> Float[Tensor, "batch width"]:
    """Return for each row b the sum of `values * W[j]` over its places (b, j)."""
    return _bags(values, W, places.latents, places.offsets)


def dots(y: Float[Tensor, "batch width"], W: Float[Tensor, "latent width"], places: Places) -> Float[Tensor, " nnz"]:
    """Return the dot product of `y[b]` and `W[j]` at each place (b, j): the derivative of a bag by its weights.

    Called directly, because autograd would first compute the bag itself for nothing: half as long again.
    """
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        y.contiguous(), W, places.latents, places.offsets[:-1], places.rows, 0
    )


def weight_gradient(
    values: Float[Tensor, " nnz"], y: Float[Tensor, "batch width"], places: Places
) -> Float[Tensor, "latent width"]:
    """Return for each latent j the sum of `values * y[b]` over its places (b, j)."""
    order, rows, offsets = places.by_latent
    return _bags(values[order], y.contiguous(), rows, offsets)


def bias_gradient(values: Float[Tensor, " nnz"], places: Places) -> Float[Tensor, " latent"]:
    """Return for each latent the sum of `values` over its places."""
    return values.new_zeros(places.n_latents).index_add_(0, places.latents, values)


def _bags(
    weights: Float[Tensor, " nnz"],
    W: Float[Tensor, "n width"],
    indices: Int[Tensor, " nnz"],
    offsets: Int[Tensor, " bag_plus_1"],
) -> Float[Tensor, "bag width"]:
    return embedding_bag(indices, W, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
