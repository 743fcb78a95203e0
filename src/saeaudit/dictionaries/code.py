"""Sparse codes: padded rows for the public (`Code`), compressed places for the training step (`Places`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Code(NamedTuple):
    """Active latents of each row, padded with zeros; an entry with value 0 is not active.

    Attributes:
        values: "batch k", >= 0. `k` is the largest number of active latents of a row, at least 1.
        indices: "batch k", latent of each value; 0 where the value is padding.
    """

    values: Float[Tensor, "batch k"]
    indices: Int[Tensor, "batch k"]

    def prefix(self, n_latents: int) -> "Code":
        """Return the code of the first `n_latents` latents only: one level of a Matryoshka dictionary."""
        return Code(self.values * (self.indices < n_latents), self.indices)


class ByLatent(NamedTuple):
    """The same places sorted by latent: `order` permutes entries, `rows` are their rows, `offsets` "latent+1"."""

    order: Int[Tensor, " nnz"]
    rows: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " latent_plus_1"]


@dataclass(frozen=True)
class Places:
    """Chosen (row, latent) places of a batch in row order, none twice, without values.

    Attributes:
        latents: "nnz", latent of each place.
        offsets: "batch+1", where each row starts in `latents`; the last item is nnz.
        n_latents: number of latents of the dictionary.
    """

    latents: Int[Tensor, " nnz"]
    offsets: Int[Tensor, " batch_plus_1"]
    n_latents: int

    @cached_property
    def rows(self) -> Int[Tensor, " nnz"]:
        """Row of each place."""
        counts = self.offsets.diff()
        rows = torch.arange(len(counts), device=counts.device)
        return torch.repeat_interleave(rows, counts, output_size=len(self.latents))

    @cached_property
    def flat(self) -> Int[Tensor, " nnz"]:
        """Flat index `row * n_latents + latent` of each place."""
        return self.rows * self.n_latents + self.latents

    @property
    def n_rows(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def by_latent(self) -> ByLatent:
        """The transposed order; computed once a step and shared by both weight gradients."""
        latents, order = self.latents.int().sort(stable=True)
        return ByLatent(order, self.rows[order], _offsets(latents, self.n_latents))

    def matrix(self, values: Float[Tensor, " nnz"]) -> Float[Tensor, "batch latent"]:
        """Return the dense matrix with `values` at these places and 0 elsewhere, with gradient."""
        empty = values.new_zeros(self.n_rows * self.n_latents)
        return empty.scatter(0, self.flat, values).view(self.n_rows, self.n_latents)

    def split(self, bounds: Sequence[int]) -> "Places":
        """Return the same places with each row cut into groups of latents: row `b * len(bounds) + g`.

        Args:
            bounds: ascending ends of the groups, the last one `n_latents`; latents ascend within a row.
        """
        ends = torch.tensor(bounds, device=self.latents.device)
        rows = self.rows * len(bounds) + torch.bucketize(self.latents, ends, right=True)
        return Places(self.latents, _offsets(rows, self.n_rows * len(bounds)), self.n_latents)


def places_of_flat(flat: Int[Tensor, " nnz"], batch: int, n_latents: int) -> Places:
    """Return the places of ascending flat indices `row * n_latents + latent`."""
    rows = torch.div(flat, n_latents, rounding_mode="floor")
    return Places(flat - rows * n_latents, _offsets(rows, batch), n_latents)


def code_of_dense(f: Float[Tensor, "batch latent"]) -> Code:
    """Return the padded code of dense activations; latents ascend within a row.

    >>> code_of_dense(torch.tensor([[0.0, 2.0, 3.0], [4.0, 0.0, 0.0]]))
    Code(values=tensor([[2., 3.],
            [4., 0.]]), indices=tensor([[1, 2],
            [0, 0]]))
    """
    return code_of_mask(f, f > 0)


def code_of_mask(f: Float[Tensor, "batch latent"], active: Bool[Tensor, "batch latent"]) -> Code:
    """Return the padded code of the entries of `f` at which `active` holds."""
    rows, latents = active.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=len(f))
    width = max(1, int(counts.max())) if len(f) else 1
    column = torch.arange(len(rows), device=f.device) - (counts.cumsum(0) - counts)[rows]
    values, indices = f.new_zeros(len(f), width), rows.new_zeros(len(f), width)
    values[rows, column] = f[rows, latents]
    indices[rows, column] = latents
    return Code(values, indices)


def stack_codes(codes: list[Code]) -> Code:
    """Return one code for consecutive groups of rows, padded to the widest."""
    width = max(code.values.shape[1] for code in codes)
    padded = [tuple(torch.nn.functional.pad(t, (0, width - t.shape[1])) for t in code) for code in codes]
    return Code(torch.cat([values for values, _ in padded]), torch.cat([indices for _, indices in padded]))


def _offsets(ascending: Tensor, n: int) -> Tensor:
    """Return where each of 0 to n begins; unlike a count of them, a GPU can be left to find it."""
    return torch.searchsorted(ascending, torch.arange(n + 1, dtype=ascending.dtype, device=ascending.device))
