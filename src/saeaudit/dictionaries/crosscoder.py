"""Crosscoder: one code for both sides, a decoder a side (Lindsey et al. 2024; BatchTopK: arXiv 2504.02922).

The relative norms of a latent's two decoder rows are the result, so they are never normalised in training. A score is
the activation times the sum of both norms, so that a latent cannot win by moving its size into the code. Both sides
share one scale: a difference of sides then has the same unit as the sides.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.base import Dictionary, Provenance
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.initial import check_axes, unit_rows
from saeaudit.dictionaries.sparsity import sparsity_of
from saeaudit.statistics import SiteStatistics


class Crosscoder(Dictionary):
    """Codes x "batch side d_model"; side 0 is the base, side 1 the tuned model."""

    kind: ClassVar[Kind] = "crosscoder"

    def __init__(self, config: DictionaryConfig, coder: SparseCoder) -> None:
        super().__init__()
        self.config = config
        self.provenance = Provenance()
        self._coder = coder

    @classmethod
    def build(cls, config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> "Crosscoder":
        """Return an untrained dictionary; the mean of both sides is the shift, their difference stays in `b_dec`."""
        check_axes(config.kind, stats, n_sides=2)
        scale = stats.scale.square().mean().sqrt()
        shift = stats.mean.mean(0, keepdim=True).expand_as(stats.mean)
        coder = SparseCoder(
            unit_rows(config.n_latents, stats.mean.shape, seed=seed),
            (stats.mean - shift) / scale,
            shift=shift,
            scale=scale.expand(2),
            sparsity=sparsity_of(config),
            unit_norm=False,
        )
        return cls(config, coder)

    @property
    def coder(self) -> SparseCoder:
        return self._coder

    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        return self._coder.W_dec.detach()[latents, 1] * self._coder.scale[1]

    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"]:
        return x[:, 1] - x[:, 0]

    def decoder_norms(self) -> Float[Tensor, "latent side"]:
        """Return the norm of each decoder row in scaled units; [0, 1] and [1, 0] are exclusive latents."""
        return torch.linalg.vector_norm(self._coder.W_dec.detach(), dim=-1)
