"""A dictionary as one affine map in raw units: no scale, no shift, no rule about the batch.

With `code = relu(W_enc x + b_enc)` gated at `threshold` and `x_hat = code @ W_dec + b_dec`, an edit of the code moves
the reconstruction by exactly `(edited - code) @ W_dec`. Values are those of the unfolded dictionary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries.code import Code, code_of_dense
from saeaudit.dictionaries.coder import SparseCoder


@dataclass(frozen=True)
class Folded:
    """Raw-space view; `...` is absent or `side`.

    Attributes:
        W_enc: "latent ... d_model".
        b_enc: "latent".
        W_dec: "latent ... d_model".
        b_dec: "... d_model".
        threshold: "latent"; a latent is active above it.
    """

    W_enc: Float[Tensor, "latent *axes"]
    b_enc: Float[Tensor, " latent"]
    W_dec: Float[Tensor, "latent *axes"]
    b_dec: Float[Tensor, "*axes"]
    threshold: Float[Tensor, " latent"]

    def activations(
        self, x: Float[Tensor, "batch *axes"], latents: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "batch n"]:
        """Return dense activations of all latents or of some; differentiable in x."""
        chosen = slice(None) if latents is None else latents
        z = torch.addmm(self.b_enc[chosen], x.flatten(1), self.W_enc[chosen].flatten(1).T)
        f = z.relu()
        return f * (f > self.threshold[chosen])

    def encode(self, x: Float[Tensor, "batch *axes"]) -> Code:
        """Return the sparse code of raw activations."""
        return code_of_dense(self.activations(x))

    def decode(self, code: Code) -> Float[Tensor, "batch *axes"]:
        """Return the reconstruction of a code."""
        y = torch.nn.functional.embedding_bag(
            code.indices, self.W_dec.flatten(1), mode="sum", per_sample_weights=code.values
        )
        return y.unflatten(1, self.b_dec.shape) + self.b_dec


@torch.no_grad()
def fold(coder: SparseCoder) -> Folded:
    """Fold shift, scale and score weights of `coder` into plain weights; computed in fp64, returned in fp32."""
    scale = coder.scale.double().unsqueeze(-1)
    W_enc = coder.W_enc.double() / scale
    weights = coder.score_weights()
    threshold = coder.threshold.double().expand(len(W_enc))
    if weights is not None:
        threshold = torch.where(weights > 0, threshold / weights.double(), torch.inf)
    b_enc = coder.b_enc.double() - W_enc.flatten(1) @ coder.shift.double().flatten()
    W_dec = coder.W_dec.double() * scale
    b_dec = coder.b_dec.double() * scale + coder.shift.double()
    return Folded(W_enc.float(), b_enc.float(), W_dec.float(), b_dec.float(), threshold.float().clone())
