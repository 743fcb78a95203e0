"""What one training forward made, and the decodes that loss terms derive from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries.code import Places, places_of_flat
from saeaudit.dictionaries.ops import decode_at, pre_at
from saeaudit.dictionaries.topk import largest_of_rows
from saeaudit.dictionaries.total import total
from saeaudit.distributed import WHOLE, Grid

if TYPE_CHECKING:
    from saeaudit.dictionaries.coder import SparseCoder


@dataclass(frozen=True)
class Forward:
    """One training forward; what loss terms read.

    Attributes:
        coder: the coder that made it.
        target: "batch width", scaled input, axes flattened.
        source: "batch width", what the encoder reads: the target, or the target without the decoder bias.
        recon: "batch width", scaled reconstruction, with gradient.
        z: "nnz", pre-activations at the places, exact, with gradient.
        values: "nnz", activations at the places, with gradient; 0 where a place is not active.
        places: where the values belong.
        pre: "batch latent", all pre-activations without gradient; overwritten by the next forward.
        grid: ranks that hold other rows and other latents; `recon` and what follows from it is of all latents.
    """

    coder: "SparseCoder"
    target: Float[Tensor, "batch width"]
    source: Float[Tensor, "batch width"]
    recon: Float[Tensor, "batch width"]
    z: Float[Tensor, " nnz"]
    values: Float[Tensor, " nnz"]
    places: Places
    pre: Float[Tensor, "batch latent"]
    grid: Grid = WHOLE

    @cached_property
    def error(self) -> Float[Tensor, "batch width"]:
        """What the reconstruction misses, scaled, with gradient."""
        return self.target - self.recon

    @cached_property
    def fvu(self) -> Float[Tensor, ""]:
        """Squared error over the variance of the harvest statistics: 0 is perfect, 1 is predicting the mean.

        The scaling rule makes that variance `width` a row, so the number does not depend on the batch.
        """
        return self.error.square().sum() / self.target.numel()

    def decode_largest(self, latents: Int[Tensor, " n"], k: int) -> Float[Tensor, "batch width"]:
        """Return the reconstruction, without bias, by the `k` of some latents with the largest activations of each row.

        Gradients are those of dense code. Ranks with other latents give their own; `k` counts all of them.
        """
        pre = self.pre.index_select(1, latents)
        flat = largest_of_rows(pre, k, self.grid.latents)
        places = places_of_flat(flat, len(pre), len(latents))
        W_enc, W_dec = (W[latents].flatten(1) for W in (self.coder.W_enc, self.coder.W_dec))
        values = pre_at(pre, self.source, W_enc, self.coder.b_enc[latents], places).relu()
        return total(decode_at(values, W_dec, places), self.grid.latents)

    def decode_frozen(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, "batch width"]:
        """Return the reconstruction by other values at the same places, without gradient to decoder and bias."""
        coder = self.coder
        return decode_at(values, coder.W_dec.detach().flatten(1), self.places) + coder.b_dec.detach().flatten()

    def decode_subset(self, latents: Bool[Tensor, " latent"]) -> Float[Tensor, "batch width"]:
        """Return what the latents in a mask add to the reconstruction, without bias."""
        values = self.values * latents[self.places.latents]
        return decode_at(values, self.coder.W_dec.flatten(1), self.places)

    def decode_groups(self, ends: Sequence[int]) -> Float[Tensor, "batch group width"]:
        """Return what each group of consecutive latents adds to the reconstruction, without bias; one decode for all.

        Args:
            ends: ascending ends of the groups, the last one the number of latents.
        """
        parts = decode_at(self.values, self.coder.W_dec.flatten(1), self.places.split(ends))
        return parts.unflatten(0, (-1, len(ends)))
