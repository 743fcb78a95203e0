"""The sparse linear coder behind every kind, in scaled space.

Steps of a training forward: (1) scale, x~ = (x - shift) / scale; (2) one dense product for all pre-activations, outside
the gradient graph; (3) the sparsity rule chooses places; (4) values, reconstruction and all gradients at those places
only. `W_enc` and `W_dec` are "latent d_model" or "latent side d_model"; every product runs over the flattened axes.
The decoder bias is never subtracted before encoding.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from saeaudit.dictionaries.code import Code, Places, code_of_mask, places_of_flat, places_of_rows, stack_codes
from saeaudit.dictionaries.gemm import EncodeGemm
from saeaudit.dictionaries.ops import decode_at, dot_at, linear_at
from saeaudit.dictionaries.sparsity import Sparsity

_CHUNK_BYTES = 64 << 20
_THRESHOLD_DECAY = 0.999


@dataclass(frozen=True)
class Forward:
    """One training forward; what loss terms read.

    Attributes:
        coder: the coder that made it.
        target: "batch width", scaled input, axes flattened.
        recon: "batch width", scaled reconstruction, with gradient.
        values: "nnz", active values, with gradient; 0 where the exact value was clipped.
        places: where the values belong.
        pre: "batch latent", all pre-activations without gradient; overwritten by the next forward.
    """

    coder: "SparseCoder"
    target: Float[Tensor, "batch width"]
    recon: Float[Tensor, "batch width"]
    values: Float[Tensor, " nnz"]
    places: Places
    pre: Float[Tensor, "batch latent"]

    @cached_property
    def error(self) -> Float[Tensor, "batch width"]:
        """What the reconstruction misses, scaled, with gradient."""
        return self.target - self.recon

    @cached_property
    def fvu(self) -> Float[Tensor, ""]:
        """Squared error over the variance of the harvest statistics: 0 is perfect, 1 is predicting the mean.

        The scaling rule makes that variance `width` a row, so the number does not depend on the batch.
        """
        return self.error.square().sum() / self.target.numel()

    def decode_rows(self, latents: Int[Tensor, "batch k"]) -> Float[Tensor, "batch width"]:
        """Return the reconstruction, without bias, by other latents of each row; gradients are those of dense code."""
        places = places_of_rows(latents, self.places.n_latents)
        values = self.coder.values_at(self.target, self.pre, places)
        return decode_at(values, self.coder.W_dec.flatten(1), places)


class SparseCoder(nn.Module):
    """Encoder, decoder, scaling and threshold; final.

    Args:
        W_dec: "latent ... d_model", initial decoder; the encoder starts as its copy.
        b_dec: "... d_model", initial decoder bias in scaled units; `b_enc = -W_enc b_dec` centres the input.
        shift: "... d_model", raw units.
        scale: "..." one scalar a side, raw units.
        sparsity: rule of the active latents.
        unit_norm: keep decoder rows at norm 1 (else their norms are free and weigh the score).
    """

    W_enc: nn.Parameter
    W_dec: nn.Parameter
    shift: Tensor
    scale: Tensor
    threshold: Tensor
    threshold_average: Tensor

    def __init__(
        self,
        W_dec: Float[Tensor, "latent *axes"],
        b_dec: Float[Tensor, "*axes"],
        *,
        shift: Float[Tensor, "*axes"],
        scale: Float[Tensor, "*sides"],
        sparsity: Sparsity,
        unit_norm: bool,
    ) -> None:
        super().__init__()
        self.W_enc = nn.Parameter(W_dec.clone())
        self.W_dec = nn.Parameter(W_dec.clone())
        self.b_enc = nn.Parameter(-(W_dec.flatten(1) @ b_dec.flatten()))
        self.b_dec = nn.Parameter(b_dec.clone())
        self.register_buffer("shift", shift.clone())
        self.register_buffer("scale", scale.clone())
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("threshold_average", torch.zeros(2, dtype=torch.float64))  # decayed sum, decayed count
        self.sparsity = sparsity
        self.unit_norm = unit_norm

    def scaled(self, x: Shaped[Tensor, "batch *axes"]) -> Float[Tensor, "batch width"]:
        """Return raw activations in scaled units, axes flattened."""
        return ((x.to(self.shift.dtype) - self.shift) / self.scale.unsqueeze(-1)).flatten(1)

    def unscaled(self, y: Float[Tensor, "batch width"]) -> Float[Tensor, "batch *axes"]:
        """Return the inverse of `scaled`."""
        return y.unflatten(1, self.shift.shape) * self.scale.unsqueeze(-1) + self.shift

    def score_weights(self) -> Float[Tensor, " latent"] | None:
        """Return `w_j`, the sum over sides of the decoder norms, detached; None where all are 1."""
        if self.unit_norm:
            return None
        norms = torch.linalg.vector_norm(self.W_dec.detach(), dim=-1)
        return norms.flatten(1).sum(1) if norms.dim() > 1 else norms

    def forward(self, x: Shaped[Tensor, "batch *axes"], *, gemm: EncodeGemm | None = None) -> Forward:
        """Run the training rule on a raw batch; in training mode the running threshold follows the batch."""
        target = self.scaled(x)
        pre = (gemm or EncodeGemm())(target, self.W_enc.flatten(1), self.b_enc)
        selection = self.sparsity.select(pre, self.score_weights())
        places = places_of_flat(selection.flat, len(pre), len(self.W_enc))
        values = self.values_at(target, pre, places)
        recon = decode_at(values, self.W_dec.flatten(1), places) + self.b_dec.flatten()
        if self.training and len(selection.flat):
            self._follow(selection.smallest)
        return Forward(self, target, recon, values, places, pre)

    def values_at(
        self, target: Float[Tensor, "batch width"], pre: Float[Tensor, "batch latent"], places: Places
    ) -> Float[Tensor, " nnz"]:
        """Return `relu(z)` at `places` with gradient; values of a rounded `pre` are computed again exactly."""
        W = self.W_enc.flatten(1)
        if pre.dtype == W.dtype:
            known = pre.reshape(-1)[places.rows * places.n_latents + places.latents]
        else:
            known = dot_at(target, W, places) + self.b_enc.detach()[places.latents]
        return linear_at(known, target, W, self.b_enc, places).relu()

    @torch.no_grad()
    def encode(self, x: Shaped[Tensor, "batch *axes"]) -> Code:
        """Return the code of raw activations by the inference rule; no gradient, bounded memory."""
        weights = self.score_weights()
        n_rows = max(1, _CHUNK_BYTES // (4 * len(self.W_enc)))
        codes = []
        for part in x.split(n_rows) if len(x) else [x]:
            pre = torch.addmm(self.b_enc, self.scaled(part), self.W_enc.flatten(1).T)
            codes.append(code_of_mask(pre, self.sparsity.active(pre, weights, self.threshold)))
        return stack_codes(codes)

    def activations(self, x: Shaped[Tensor, "batch *axes"], latents: Int[Tensor, " n"]) -> Float[Tensor, "batch n"]:
        """Return the inference activations of some latents only, dense; differentiable in x."""
        pre = torch.addmm(self.b_enc[latents], self.scaled(x), self.W_enc[latents].flatten(1).T)
        weights = self.score_weights()
        weights = None if weights is None else weights[latents]
        return pre * self.sparsity.active(pre, weights, self.threshold)

    def decode(self, code: Code) -> Float[Tensor, "batch *axes"]:
        """Return the raw reconstruction of a code."""
        y = nn.functional.embedding_bag(code.indices, self.W_dec.flatten(1), mode="sum", per_sample_weights=code.values)
        return self.unscaled(y + self.b_dec.flatten())

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Before the optimiser: remove from each decoder row's gradient the part along the row (unit norms only)."""
        if self.unit_norm and self.W_dec.grad is not None:
            along = (self.W_dec.grad * self.W_dec).sum(-1, keepdim=True)
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def project_weights(self) -> None:
        """After the optimiser: bring decoder rows back to norm 1 (unit norms only)."""
        if self.unit_norm:
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=-1, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def canonicalise(self) -> None:
        """Rescale free latents so that decoder norms sum to 1 over sides; scores and reconstructions stay.

        A value changes by the factor its decoder row loses. A row of norm 0 is left as it is.
        """
        weights = self.score_weights()
        if weights is None:
            return
        factor = torch.where(weights > 0, weights, 1.0)
        self.b_enc.mul_(factor)
        factor = factor.reshape(-1, *[1] * (self.W_dec.dim() - 1))
        self.W_enc.mul_(factor)
        self.W_dec.div_(factor)

    def _follow(self, smallest: float) -> None:
        self.threshold_average *= _THRESHOLD_DECAY
        self.threshold_average += torch.tensor([smallest, 1.0], dtype=torch.float64, device=self.threshold.device)
        self.threshold.copy_(self.threshold_average[0] / self.threshold_average[1])
