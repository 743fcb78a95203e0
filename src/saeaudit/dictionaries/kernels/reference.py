"""The sums at chosen places as dense products: the definition, and the fastest way where many places are chosen."""

from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries.code import Places


def bag(
    values: Float[Tensor, " nnz"], W: Float[Tensor, "latent width"], places: Places
) -> Float[Tensor, "batch width"]:
    """Return for each row b the sum of `values * W[j]` over its places (b, j)."""
    return places.matrix(values) @ W


def dots(y: Float[Tensor, "batch width"], W: Float[Tensor, "latent width"], places: Places) -> Float[Tensor, " nnz"]:
    """Return the dot product of `y[b]` and `W[j]` at each place (b, j)."""
    return (y @ W.T).reshape(-1)[places.flat]


def weight_gradient(
    values: Float[Tensor, " nnz"], y: Float[Tensor, "batch width"], places: Places
) -> Float[Tensor, "latent width"]:
    """Return for each latent j the sum of `values * y[b]` over its places (b, j)."""
    return places.matrix(values).T @ y


def bias_gradient(values: Float[Tensor, " nnz"], places: Places) -> Float[Tensor, " latent"]:
    """Return for each latent the sum of `values` over its places."""
    return values.new_zeros(places.n_latents).index_add_(0, places.latents, values)
