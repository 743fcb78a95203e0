"""Changes of the tuned model's residual that may read both sides: what is taken out of the difference, what is added.

A change is a function of the residuals h0 (base) and h1 (tuned model) of the same tokens. What it returns is added to
h1, so everything that it does not name stays, the error of a dictionary included. The same change serves for writing
(`SidedEdit`, with a KV cache) and for whole texts (`changed`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import Dictionary
from saeaudit.errors import ModelError
from saeaudit.interventions.paired import BaseSide, PairedBase

Rows = Float[Tensor, "*rows d_model"]
Change = Callable[[Rows, Rows], Rows]
"""`change(h0, h1)`: what is added to h1."""

SKIP_FIRST = 4


def read_latents(dictionary: Dictionary, latents: Sequence[int], h0: Rows, h1: Rows) -> Float[Tensor, "*rows latent"]:
    """Return activations: of the difference, of both sides, or of h1, whichever the dictionary reads."""
    x = {"sae": h1, "diff": h1 - h0, "crosscoder": torch.stack([h0, h1], -2)}[dictionary.kind]
    flat = x.flatten(end_dim=-dictionary.coder.shift.dim() - 1)
    return dictionary.activations(flat, torch.tensor(latents)).unflatten(0, h1.shape[:-1])


def written_rows(dictionary: Dictionary, latents: Sequence[int]) -> Float[Tensor, "latent d_model"]:
    """Return what one unit of each latent adds to the difference, raw units (to h1, for a one-sided SAE)."""
    rows = dictionary.coder.W_dec.detach()[torch.tensor(latents)] * dictionary.coder.scale.unsqueeze(-1)
    return rows[:, 1] - rows[:, 0] if dictionary.kind == "crosscoder" else rows


class GainLatents:
    """Multiply some latents by a gain: h1 + (gain - 1) f_j d_j, of a crosscoder the difference d_j^1 - d_j^0 only.

    Args:
        dictionary: at the site.
        latents: distinct latents; none is the identity.
        gain: 0 takes them out, 1 is the identity; a number, or "row 1 latent" for one a row and latent.
    """

    def __init__(self, dictionary: Dictionary, latents: Sequence[int], gain: float | Tensor = 0.0) -> None:
        self._dictionary, self._latents, self._gain = dictionary, list(latents), gain
        self._rows = written_rows(dictionary, self._latents) if self._latents else None

    def __call__(self, h0: Rows, h1: Rows) -> Rows:
        """Return the change."""
        if self._rows is None:
            return torch.zeros_like(h1)
        values = read_latents(self._dictionary, self._latents, h0, h1)
        return ((self._gain - 1) * values) @ self._rows


@dataclass(frozen=True)
class ProjectOut:
    """Take the span of some orthonormal directions out of the difference: h1 - V Vᵀ (h1 - h0)."""

    directions: Float[Tensor, "direction d_model"]

    def __call__(self, h0: Rows, h1: Rows) -> Rows:
        """Return the change."""
        return -((h1 - h0) @ self.directions.T) @ self.directions


@dataclass(frozen=True)
class ReplaceDifference:
    """Put an estimate in the place of the difference: h0 + estimate(h0, h1); None stands for no difference at all."""

    estimate: Change | None = None

    def __call__(self, h0: Rows, h1: Rows) -> Rows:
        """Return the change."""
        without = h0 - h1
        return without if self.estimate is None else without + self.estimate(h0, h1)


@dataclass(frozen=True)
class Steer:
    """Add the same vector to every token."""

    vector: Float[Tensor, " d_model"]

    def __call__(self, h0: Rows, h1: Rows) -> Rows:
        """Return the change."""
        return self.vector.expand_as(h1)


@dataclass(frozen=True)
class EqualNorm:
    """A control: at each token `scale` times as far as another change goes, but always in one direction (norm 1)."""

    change: Change
    direction: Float[Tensor, " d_model"]
    scale: float = 1.0

    def __call__(self, h0: Rows, h1: Rows) -> Rows:
        """Return the change."""
        return self.scale * self.change(h0, h1).norm(dim=-1, keepdim=True) * self.direction


def changed(
    h: Float[Tensor, "batch pos d_model"], base: BaseSide, change: Change, *, skip_first: int = SKIP_FIRST
) -> Float[Tensor, "batch pos d_model"]:
    """Return the tuned model's residual under a change.

    Padding, tokens that the base does not know and the first positions are left as they are.
    """
    held = (base.known & (base.positions >= skip_first))[..., None]
    added = torch.where(held, change(base.residual.float(), h.float()), 0.0)
    return (h.float() + added).to(h.dtype)


class SidedEdit:
    """A change as an edit of the tuned model; see `changed`."""

    def __init__(self, paired: PairedBase, change: Change, *, skip_first: int = SKIP_FIRST) -> None:
        self._paired, self._change, self._skip_first = paired, change, skip_first

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return the changed residual.

        Raises:
            ModelError: outside its `PairedBase` (code `paired-missing`).
        """
        if self._paired.side is None:
            raise ModelError(
                "an edit that reads the base ran outside its PairedBase; enter that context around the pass",
                code="paired-missing",
            )
        return changed(h, self._paired.side, self._change, skip_first=self._skip_first)
