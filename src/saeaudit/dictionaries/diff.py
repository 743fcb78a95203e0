"""Diff-SAE: a sparse autoencoder of what fine-tuning changed, delta = x1 - x0.

Its decoder has no side axis: it says how the tuned activation differs, given the base one.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.base import Dictionary
from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.initial import check_axes
from saeaudit.dictionaries.sae import one_sided_coder
from saeaudit.statistics import SiteStatistics


class DiffSae(Dictionary):
    """Codes delta "batch d_model"."""

    kind: ClassVar[Kind] = "diff"

    @classmethod
    def build(cls, config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> "DiffSae":
        """Return an untrained dictionary from statistics of the difference; its mean stays visible in `b_dec`."""
        check_axes(config.kind, stats, n_sides=None)
        b_dec = stats.mean / stats.scale.unsqueeze(-1)
        return cls(config, one_sided_coder(config, stats, shift=torch.zeros_like(b_dec), b_dec=b_dec, seed=seed))

    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        return self.coder.W_dec.detach()[latents] * self.coder.scale

    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"]:
        return x

    def decode_side(
        self, code: Code, side: Literal[0, 1], *, given: Float[Tensor, "batch d_model"]
    ) -> Float[Tensor, "batch d_model"]:
        """Return one side from the other: side 1 given x0 is `x0 + delta_hat`, side 0 given x1 is `x1 - delta_hat`."""
        delta = self.decode(code)
        return given + delta if side == 1 else given - delta
