"""Which latents are active and with what value: the part of a dictionary that differs between published kinds.

A rule sees pre-activations z = W_enc y + b_enc only, never the input, so the encoder product, the decoder and all
gradients are the same for every kind. In training it names the places at which anything must be computed (`select`) and
the activations there (`values`). At inference the activation of an active latent is affine in the input for every rule
(`gain`, `bias`), and a latent is active above a cutoff of its own (`cutoffs`).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from saeaudit.dictionaries.code import Places
from saeaudit.distributed import WHOLE, Grid

ThresholdSource = Literal["none", "running", "learned"]


class Chosen(NamedTuple):
    """Ascending flat indices `row * n_latents + latent`, and the smallest score that each budget let through (or 0)."""

    flat: Int[Tensor, " nnz"]
    smallest: tuple[float, ...] = ()


class Budget(NamedTuple):
    """`k` active latents a row, on average, of the latents from `start` to `stop`."""

    start: int
    stop: int
    k: int


class Sparsity(nn.Module, ABC):
    """The rule that turns pre-activations into activations; its parameters, if any, are trained with the coder's.

    `weights` are factors of the score a latent (None: all 1), as crosscoders weigh an activation by its decoder norm.

    Attributes:
        ranks: latents compete by score, so `weights` matter and rounded pre-activations may propose places.
        per_row: they compete within a row at inference too, so a latent has no cutoff of its own.
        threshold_source: where the cutoffs come from: "none" (there is nothing to set), "running" (they follow training
            and should be calibrated), "learned" (they are parameters).
    """

    ranks: ClassVar[bool] = False
    per_row: ClassVar[bool] = False
    threshold_source: ClassVar[ThresholdSource] = "none"

    @abstractmethod
    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        """Return the places that are active or carry a gradient in training; the rule may look at the whole batch.

        Args:
            pre: pre-activations.
            weights: factors of the score.
            grid: ranks that hold other rows of the batch or other latents.
        """

    def values(
        self, z: Float[Tensor, " nnz"], b_enc: Float[Tensor, " latent"], places: Places
    ) -> Float[Tensor, " nnz"]:
        """Return the activations at the selected places from their exact pre-activations, with gradient."""
        return z.relu()

    def active(
        self,
        pre: Float[Tensor, "batch n"],
        weights: Float[Tensor, " n"] | None,
        threshold: Float[Tensor, "#n"] | Float[Tensor, ""],
    ) -> Bool[Tensor, "batch n"]:
        """Return the places active at inference; a row's answer depends on that row only.

        Args:
            pre: activations that the latents have where they are active.
            weights: factors of the score.
            threshold: score above which a latent is active, one for all or one each.
        """
        score = pre if weights is None else pre * weights
        return (score > threshold) & (pre > 0)

    def cutoffs(
        self, threshold: Float[Tensor, "*ranges"], b_enc: Float[Tensor, " latent"]
    ) -> Float[Tensor, " latent"] | Float[Tensor, ""]:
        """Return the threshold of `active`, one for all latents or one each, from the coder's `threshold`."""
        return torch.zeros_like(threshold)

    def gain(self) -> Float[Tensor, " latent"] | None:
        """Return the factor of the encoder rows at inference; None where it is 1."""
        return None

    def bias(self, b_enc: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
        """Return the encoder bias at inference, added after `gain`."""
        return b_enc

    def budgets(self, n_latents: int) -> tuple[Budget, ...]:
        """Return what a calibration has to meet, one threshold each; none where no threshold is set."""
        return ()

    def begin(self, b_enc: Float[Tensor, " latent"]) -> None:
        """Set parameters that start from the encoder bias."""

    def at_step(self, step: int) -> None:
        """Follow a schedule; called before each 0-based training step."""

    def rescale(self, factor: Float[Tensor, " latent"]) -> None:
        """Keep the activity of each latent when its encoder row and bias are multiplied by `factor`."""
