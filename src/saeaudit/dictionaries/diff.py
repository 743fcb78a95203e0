"""Diff-SAE: a sparse autoencoder of what fine-tuning changed, delta = x1 - x0.

Its decoder has no side axis: it says how the tuned activation differs, given the base one.
"""

from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.base import Dictionary, Provenance
from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.sae import Sae
from saeaudit.statistics import SiteStatistics


class DiffSae(Dictionary):
    """Codes delta "batch d_model"; has an `Sae` of the differences."""

    kind: ClassVar[Kind] = "diff"

    def __init__(self, config: DictionaryConfig, sae: Sae) -> None:
        super().__init__()
        self.config = config
        self.provenance = Provenance()
        self.sae = sae

    @classmethod
    def build(cls, config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> "DiffSae":
        """Return an untrained dictionary from statistics of the difference."""
        return cls(config, Sae.build_difference(config, stats, seed=seed))

    @property
    def coder(self) -> SparseCoder:
        return self.sae.coder

    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        return self.sae.direction(latents)

    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"]:
        return x

    def decode_side(
        self, code: Code, side: Literal[0, 1], *, given: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """Return one side from the other: side 1 given x0 is `x0 + delta_hat`, side 0 given x1 is `x1 - delta_hat`."""
        delta = self.decode(code)
        return given + delta if side == 1 else given - delta
