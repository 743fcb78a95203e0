"""Edits of the residual stream at a site: what a clamp does to the latents it holds.

An edit keeps the dictionary's error term, h' = h + (z' - z) @ W_dec[S], so with nothing to change it is exactly the
identity. `S` are the held latents, z their values, z' the values the operator wants. The dictionary is read in its
folded form (raw units, no pre-encoder bias), so the formula holds literally.

For a Diff-SAE the encoder reads the difference of the two models, so the edit needs the base's residual on the same
tokens; `PairedBase` (paired.py) supplies it while the tuned model runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import Folded
from saeaudit.errors import ConfigError

Operator = Literal["zero", "set", "gain"]
Residual = Float[Tensor, "batch pos d_model"]


@dataclass(frozen=True)
class Clamp:
    """A hold on some latents of one dictionary at one site.

    Attributes:
        site: such as "layers.17".
        latents: distinct latent indices, at least one.
        operator: "zero" -> 0; "set" -> `value`; "gain" -> `value` * z (an inactive latent stays inactive).
        value: used by "set" and "gain".
        skip_first: leading positions that are left alone (norm outliers; dictionaries are not trained on them).
    """

    site: str
    latents: tuple[int, ...]
    operator: Operator = "zero"
    value: float = 0.0
    skip_first: int = 4


def _check_clamp(clamp: Clamp) -> None:
    if clamp.operator not in get_args(Operator) or not math.isfinite(clamp.value) or clamp.skip_first < 0:
        raise ConfigError(
            f"a clamp has an operator of {', '.join(get_args(Operator))}, a finite value and skip_first >= 0; "
            f"asked for {clamp.operator!r}, {clamp.value}, {clamp.skip_first}",
            code="clamp-operator",
        )


class LatentEdit:
    """The arithmetic of a clamp on one dictionary: from input of the encoder to the change of the residual."""

    def __init__(self, folded: Folded, clamp: Clamp) -> None:
        """Cut the rows of the held latents out of the dictionary.

        Raises:
            ConfigError: no latents, a repeated one, or one outside the dictionary (`clamp-latents`); an unknown
                operator, a value that is not finite, or a negative `skip_first` (`clamp-operator`); a dictionary that
                reads both sides at once (`clamp-crosscoder`).
        """
        _check_clamp(clamp)
        if folded.W_enc.ndim != 2:
            raise ConfigError(
                f"a clamp needs an encoder of shape (latent, d_model), not {tuple(folded.W_enc.shape)}; "
                "crosscoders cannot be clamped, use a Diff-SAE",
                code="clamp-crosscoder",
            )
        n_latents = folded.W_enc.shape[0]
        wrong = [j for j in clamp.latents if not 0 <= j < n_latents]
        if not clamp.latents or wrong or len(set(clamp.latents)) != len(clamp.latents):
            raise ConfigError(
                f"a clamp holds distinct latents between 0 and {n_latents - 1}; asked for {list(clamp.latents)[:10]}",
                code="clamp-latents",
            )
        at = torch.tensor(clamp.latents)
        self.clamp = clamp
        self.encoder = folded.W_enc[at].float()
        self.bias = folded.b_enc[at].float()
        self.threshold = folded.threshold[at].float()
        self.decoder = folded.W_dec[at].float()

    def preactivations(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows latent"]:
        """Return pre-activations of the held latents."""
        return x.float() @ self.encoder.T + self.bias

    def values(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows latent"]:
        """Return the values of the held latents, by the rule used at inference."""
        a = self.preactivations(x)
        return torch.where(a > self.threshold, a.clamp_min(0.0), torch.zeros_like(a))

    def change(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Return (z' - z) @ W_dec[S]: what the clamp adds to the residual."""
        z = self.values(x)
        if self.clamp.operator == "zero":
            wanted = torch.zeros_like(z)
        elif self.clamp.operator == "set":
            wanted = torch.full_like(z, self.clamp.value)
        else:
            wanted = self.clamp.value * z
        return (wanted - z) @ self.decoder


def compose(edits: Sequence[Callable[[Residual, int], Residual]]) -> Callable[[Residual, int], Residual]:
    """Return one edit that applies several in order, each seeing what the one before left."""

    def edit(h: Residual, start: int) -> Residual:
        for one in edits:
            h = one(h, start)
        return h

    return edit
