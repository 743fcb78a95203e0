"""What every dictionary offers, whatever its kind."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.folded import Folded, fold
from saeaudit.dictionaries.saving import save_dictionary
from saeaudit.errors import InputError


@dataclass(frozen=True)
class Provenance:
    """Where a dictionary comes from; plain JSON values, written beside the weights.

    Attributes:
        site: the module whose output was read ("layers.13"), or None.
        cards: model cards by side.
        training: summary of the run (tokens, seconds, fit).
        threshold_source: "none" (untrained, or a rule without one), "running" (average of training cutoffs),
            "calibrated", or "learned" (a parameter of the rule).
    """

    site: str | None = None
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    threshold_source: str = "none"


class Dictionary(nn.Module, ABC):
    """A sparse code of activations; x and x_hat are raw activations, "batch d_model" or "batch side d_model".

    The inference rule decides each row by itself: a row's code does not depend on the batch around it.

    Attributes:
        kind: what it reads.
        config: its settings.
        provenance: where it comes from.
        coder: the trained part, in scaled space.
    """

    kind: ClassVar[Kind]

    def __init__(self, config: DictionaryConfig, coder: SparseCoder) -> None:
        super().__init__()
        self.config = config
        self.provenance = Provenance()
        self.coder = coder

    @abstractmethod
    def direction(self, latents: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """Return decoder rows in raw units; of the tuned side for a crosscoder."""

    @abstractmethod
    def difference(self, x: Float[Tensor, "batch *axes"]) -> Float[Tensor, "batch d_model"] | None:
        """Return the part of an input or reconstruction that is tuned - base; None if it holds one side only."""

    @property
    def n_latents(self) -> int:
        return len(self.coder.W_enc)

    @property
    def d_model(self) -> int:
        return self.coder.shift.shape[-1]

    @property
    def threshold(self) -> Float[Tensor, "*ranges"]:
        """Score above which a latent is active at inference, for rules that calibrate one; else 0."""
        return self.coder.threshold

    @property
    def W_enc(self) -> Float[Tensor, "latent *axes"]:
        """Encoder rows, scaled units; raw units are in `fold()`."""
        return self.coder.W_enc

    @property
    def W_dec(self) -> Float[Tensor, "latent *axes"]:
        """Decoder rows, scaled units; raw units are in `fold()`."""
        return self.coder.W_dec

    def encode(self, x: Shaped[Tensor, "batch *axes"]) -> Code:
        """Return the sparse code of raw activations, without gradient.

        Raises:
            InputError: the shape is not the dictionary's, or the dtype is not floating.
        """
        return self.coder.encode(self.checked(x))

    def decode(self, code: Code) -> Float[Tensor, "batch *axes"]:
        """Return the raw reconstruction of a code."""
        return self.coder.decode(code)

    def activations(self, x: Shaped[Tensor, "batch *axes"], latents: Int[Tensor, " n"]) -> Float[Tensor, "batch n"]:
        """Return dense activations of the given latents only; differentiable in x.

        Raises:
            InputError: the shape is not the dictionary's, or the dtype is not floating.
        """
        return self.coder.activations(self.checked(x), latents)

    def fold(self) -> Folded:
        """Return the frozen raw-space view with equal codes and reconstructions.

        Raises:
            ConfigError: the rule is TopK, whose latents compete within a row ("fold-topk").
        """
        return fold(self.coder)

    def save(self, path: Path) -> None:
        """Write the dictionary as a directory that appears complete or not at all."""
        save_dictionary(self, path)

    def checked(self, x: Shaped[Tensor, "batch *axes"]) -> Float[Tensor, "batch *axes"]:
        """Return `x` if this dictionary can read it.

        Raises:
            InputError: code "shape" or "dtype".
        """
        axes = tuple(self.coder.shift.shape)
        if tuple(x.shape[1:]) != axes or x.dim() != len(axes) + 1:
            names = ["batch", "side", "d_model"] if len(axes) == 2 else ["batch", "d_model"]
            raise InputError(
                f"a {self.kind} dictionary reads ({' '.join(names)}) = (any, {', '.join(map(str, axes))}); "
                f"found {tuple(x.shape)}; check the site and the kind of the dictionary",
                code="shape",
            )
        if not torch.is_floating_point(x):
            raise InputError(f"activations must be floating point, found {x.dtype}; convert them first", code="dtype")
        return x
