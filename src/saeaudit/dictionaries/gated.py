"""A gate decides whether a latent is active, a magnitude how much (arXiv 2404.16014, section 3.2).

Both share the encoder rows, so with the gate g = W_enc y + b_enc the magnitude is m = exp(r) (g - b_enc) + b_mag, and
f = relu(m) where g > 0. The gate is open exactly where m > b_mag - exp(r) b_enc: at inference a gated dictionary *is*
a JumpReLU one with encoder exp(r) W_enc, bias b_mag and that threshold (appendix E there).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saeaudit.dictionaries.code import Places
from saeaudit.dictionaries.selection import flat_above
from saeaudit.dictionaries.sparsity import Chosen, Sparsity
from saeaudit.distributed import WHOLE, Grid


class Gated(Sparsity):
    """Parameters `r_mag` and `b_mag`, "latent"; the magnitude starts equal to the gate."""

    threshold_source = "learned"

    def __init__(self, n_latents: int) -> None:
        super().__init__()
        self.r_mag = nn.Parameter(torch.zeros(n_latents))
        self.b_mag = nn.Parameter(torch.zeros(n_latents))

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        return Chosen(flat_above(pre, 0.0))

    def values(
        self, z: Float[Tensor, " nnz"], b_enc: Float[Tensor, " latent"], places: Places
    ) -> Float[Tensor, " nnz"]:
        at = places.latents
        linear = z - b_enc.index_select(0, at)
        return (self.r_mag.exp().index_select(0, at) * linear + self.b_mag.index_select(0, at)).relu()

    def cutoffs(self, threshold: Float[Tensor, ""], b_enc: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        return self.b_mag - self.r_mag.exp() * b_enc

    def gain(self) -> Float[Tensor, " latent"]:
        return self.r_mag.exp()

    def bias(self, b_enc: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        return self.b_mag

    @torch.no_grad()
    def begin(self, b_enc: Float[Tensor, " latent"]) -> None:
        self.b_mag.copy_(b_enc)

    @torch.no_grad()
    def rescale(self, factor: Float[Tensor, " latent"]) -> None:
        self.b_mag.mul_(factor)
