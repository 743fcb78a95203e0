"""A sparse autoencoder of one activation (arXiv 2309.08600; BatchTopK: 2412.06410).

Decoder rows have norm 1. Only the ReLU rule leaves them free, because its penalty weighs activations by them.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.base import Dictionary
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import DictionaryConfig, Kind, PublishedConfig
from saeaudit.dictionaries.initial import FREE_NORM, check_axes, unit_rows
from saeaudit.dictionaries.rules import sparsity_of
from saeaudit.statistics import SiteStatistics


class Sae(Dictionary):
    """Codes x "batch d_model"."""

    kind: ClassVar[Kind] = "sae"

    @classmethod
    def build(cls, config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> "Sae":
        """Return an untrained dictionary.

        The mean becomes the shift: some coordinates of a residual stream have a mean far above their deviation, and
        the encoder product should not carry it.
        """
        check_axes(config.kind, stats, n_sides=None)
        zero = torch.zeros_like(stats.mean)
        return cls(config, one_sided_coder(config, stats, shift=stats.mean, b_dec=zero, seed=seed))

    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        return self.coder.W_dec.detach()[latents] * self.coder.scale

    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"] | None:
        return None


def one_sided_coder(
    config: DictionaryConfig,
    stats: SiteStatistics,
    *,
    shift: Float[Tensor, " d_model"],
    b_dec: Float[Tensor, " d_model"],
    seed: int,
) -> SparseCoder:
    """Return an untrained coder of rows "batch d_model"; `shift` is in raw units, `b_dec` in scaled ones."""
    W_dec = unit_rows(config.n_latents, stats.mean.shape, seed=seed)
    published = config.published or PublishedConfig()
    unit_norm = config.sparsity != "relu" if published.tied is None else published.tied == "rows"
    return SparseCoder(
        W_dec if unit_norm else W_dec * FREE_NORM,
        b_dec,
        shift=shift,
        scale=stats.scale,
        sparsity=sparsity_of(config),
        unit_norm=unit_norm,
        pre_bias=published.pre_bias,
        tied=published.tied,
    )
