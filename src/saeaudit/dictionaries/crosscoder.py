"""Crosscoder: one code for both sides, a decoder a side (Lindsey et al. 2024; BatchTopK: arXiv 2504.02922).

The relative norms of a latent's two decoder rows are the result, so they are never normalised in training. A score is
the activation times the sum of both norms, so that a latent cannot win by moving its size into the code. Both sides
share one scale: a difference of sides then has the same unit as the sides.

Scored by the difference of its errors alone (bridge -1), what both decoder rows have in common is not determined: then
only their difference is a result.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.base import Dictionary
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import CrosscoderConfig, DictionaryConfig, Kind, PublishedConfig
from saeaudit.dictionaries.initial import FREE_NORM, check_axes, unit_rows
from saeaudit.dictionaries.rules import sparsity_of
from saeaudit.dictionaries.side_rows import lay_out
from saeaudit.errors import EvidenceError
from saeaudit.statistics import SiteStatistics


class Crosscoder(Dictionary):
    """Codes x "batch side d_model"; side 0 is the base, side 1 the tuned model."""

    kind: ClassVar[Kind] = "crosscoder"

    @classmethod
    def build(cls, config: DictionaryConfig, stats: SiteStatistics, *, seed: int) -> "Crosscoder":
        """Return an untrained dictionary; the mean of both sides is the shift, their difference stays in `b_dec`."""
        check_axes(config.kind, stats, n_sides=2)
        own, published = config.crosscoder or CrosscoderConfig(), config.published or PublishedConfig()
        scale = stats.scale.square().mean().sqrt()
        shift = stats.mean.mean(0, keepdim=True).expand_as(stats.mean)
        W_dec = unit_rows(config.n_latents, stats.mean.shape, seed=seed)
        coder = SparseCoder(
            W_dec * FREE_NORM * 2**0.5 if config.sparsity == "relu" else W_dec,
            (stats.mean - shift) / scale,
            shift=shift,
            scale=scale.expand(2),
            sparsity=sparsity_of(config),
            unit_norm=False,
            score=own.score,
            pre_bias=published.pre_bias,
            tied=published.tied,
        )
        lay_out(coder, own.ranges)
        return cls(config, coder)

    @property
    def _common_part_is_free(self) -> bool:
        return self.config.crosscoder is not None and self.config.crosscoder.bridge == -1

    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        base, tuned = self.coder.W_dec.detach()[latents].unbind(1)
        return (tuned - base if self._common_part_is_free else tuned) * self.coder.scale[1]

    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"]:
        return x[:, 1] - x[:, 0]

    def decoder_norms(self) -> Float[Tensor, "latent side"]:
        """Return the norm of each decoder row in scaled units; [0, 1] and [1, 0] are exclusive latents.

        Raises:
            EvidenceError: only the difference of the rows was trained ("undefined-metric").
        """
        if self._common_part_is_free:
            raise EvidenceError(
                "decoder norms were asked of a crosscoder trained with bridge = -1, which scores the difference of its "
                "errors and leaves the common part of both rows undetermined; read `direction`, or train another",
                code="undefined-metric",
            )
        return torch.linalg.vector_norm(self.coder.W_dec.detach(), dim=-1)
