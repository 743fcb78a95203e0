"""What every format becomes on its way to another: plain tensors and a rule, in the terms of the native dictionaries.

With x~ = (x - shift) / scale and z = W_enc x~ + b_enc, a latent's value is f = relu(z) where the rule holds and 0
elsewhere; x_hat = scale * (f W_dec + b_dec) + shift. Two foreign conventions need no rounding in these terms: a decoder
bias subtracted before encoding is a shift with b_dec = 0, and a normalised input is a shift and a scale.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import Kind, Score


@dataclass(frozen=True)
class Relu:
    """Every positive latent is active."""


@dataclass(frozen=True)
class JumpRelu:
    """A latent is active above its own threshold (arXiv 2407.14435, section 3)."""

    threshold: Float[Tensor, " latent"]


@dataclass(frozen=True)
class TopK:
    """The k largest positive scores of a row are active (arXiv 2406.04093, section 2.3); `score` as in `BatchTopK`."""

    k: int
    score: Score = "none"


@dataclass(frozen=True)
class BatchTopK:
    """One threshold for the scores of all latents (arXiv 2412.06410, section 3).

    Attributes:
        k: mean number of active latents a row.
        threshold: score above which a latent is active.
        score: factor of the value: the sum over sides of the decoder norms, the norm of both rows as one, that plus a
            tenth of the sum ("mixed"), or none.
        prefixes: ascending widths of a Matryoshka dictionary; None for a plain one.
    """

    k: int
    threshold: float
    score: Score = "none"
    prefixes: tuple[int, ...] | None = None


Rule = Relu | JumpRelu | TopK | BatchTopK


@dataclass(frozen=True)
class Origin:
    """Where a dictionary comes from, as far as its files say.

    Attributes:
        site: "layers.13", or None.
        models: side ("base", "tuned") -> name of the model.
        metadata: what else the source's format records, JSON values; {"format": ...} names the format.
    """

    site: str | None = None
    models: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Portable:
    """A dictionary between two formats, fp32.

    Attributes:
        kind: what it reads: "sae" one activation, "diff" tuned - base, "crosscoder" both sides (0 base, 1 tuned).
        W_enc: "latent ... d_model", a row is a direction; `...` is absent or `side`.
        b_enc: "latent".
        W_dec: "latent ... d_model".
        b_dec: "... d_model", scaled units.
        shift: "... d_model", raw units.
        scale: "...", one scalar a side, raw units, > 0.
        rule: which latents are active.
        origin: site, models, metadata.
    """

    kind: Kind
    W_enc: Float[Tensor, "latent *axes"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent *axes"]
    b_dec: Float[Tensor, "*axes"]
    shift: Float[Tensor, "*axes"]
    scale: Float[Tensor, "*sides"]
    rule: Rule
    origin: Origin = Origin()


def of_one_side(
    W_enc: Float[Tensor, "latent d_model"],
    b_enc: Float[Tensor, " latent"],
    W_dec: Float[Tensor, "latent d_model"],
    b_dec: Float[Tensor, " d_model"],
    *,
    rule: Rule,
    subtracts_b_dec: bool,
    origin: Origin,
    kind: Kind = "sae",
) -> Portable:
    """Return a dictionary of raw activations, whether or not its format subtracts `b_dec` before encoding."""
    zero, one = torch.zeros_like(b_dec), torch.ones(())
    shift, b_dec = (b_dec, zero) if subtracts_b_dec else (zero, b_dec)
    return Portable(kind, W_enc.contiguous(), b_enc, W_dec.contiguous(), b_dec, shift, one, rule, origin)


def of_gates(
    W_gate: Float[Tensor, "latent d_model"],
    b_gate: Float[Tensor, " latent"],
    r_mag: Float[Tensor, " latent"],
    b_mag: Float[Tensor, " latent"],
) -> tuple[Float[Tensor, "latent d_model"], Float[Tensor, " latent"], JumpRelu]:
    """Return encoder, bias and thresholds of the JumpReLU that equals a gated encoder (arXiv 2404.16014, appendix E).

    The gate is open where W_gate x + b_gate > 0, that is where the magnitude m = exp(r_mag) W_gate x + b_mag exceeds
    b_mag - exp(r_mag) b_gate.
    """
    gain = r_mag.double().exp()
    threshold = b_mag.double() - gain * b_gate.double()
    return (W_gate.double() * gain[:, None]).float(), b_mag, JumpRelu(threshold.float())


class RawWeights(NamedTuple):
    """An encoder and a decoder of raw activations, fp32; with `subtracts_b_dec` the encoder reads x - b_dec."""

    W_enc: Float[Tensor, "latent d_model"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent d_model"]
    b_dec: Float[Tensor, " d_model"]
    subtracts_b_dec: bool


def raw_weights(portable: Portable) -> RawWeights:
    """Fold shift and scale of a one-sided dictionary, in fp64; values of the code do not change.

    A shift without a decoder bias is a bias that is subtracted before encoding: it stays one, and no bit is lost.
    """
    scale, shift = portable.scale.double(), portable.shift.double()
    W_enc, W_dec = portable.W_enc.double() / scale, portable.W_dec.double() * scale
    if bool(shift.any()) and not bool(portable.b_dec.any()):
        return RawWeights(W_enc.float(), portable.b_enc, W_dec.float(), portable.shift, True)
    b_enc = portable.b_enc.double() - W_enc @ shift
    b_dec = portable.b_dec.double() * scale + shift
    return RawWeights(W_enc.float(), b_enc.float(), W_dec.float(), b_dec.float(), False)
