"""The sparse linear coder behind every kind, in scaled space.

Steps of a training forward: (1) scale, x~ = (x - shift) / scale; (2) one dense product for all pre-activations, outside
the gradient graph; (3) the sparsity rule chooses places; (4) values, reconstruction and all gradients at those places
only. `W_enc` and `W_dec` are "latent d_model" or "latent side d_model"; every product runs over the flattened axes.
The decoder bias is not subtracted before encoding, unless a published recipe asks for it.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.utils import parametrize

from saeaudit.dictionaries.code import Code, code_of_mask, places_of_flat, stack_codes
from saeaudit.dictionaries.config import Score, Tied
from saeaudit.dictionaries.forward import Forward
from saeaudit.dictionaries.gemm import EncodeGemm
from saeaudit.dictionaries.ops import decode_at, pre_at
from saeaudit.dictionaries.sparsity import Sparsity
from saeaudit.dictionaries.total import total
from saeaudit.distributed import WHOLE, Grid

_CHUNK_BYTES = 64 << 20
_THRESHOLD_DECAY = 0.999
# Weight in a mixed score of the sum of the decoder norms, beside 1 for their joint norm; as in crosscoder_learning.
SUM_SHARE = 0.1


class Encoder(NamedTuple):
    """The affine map of inference: rows "n width" and biases "n", scaled units."""

    W: Float[Tensor, "n width"]
    bias: Float[Tensor, " n"]


class SparseCoder(nn.Module):
    """Encoder, decoder, scaling and sparsity rule; final.

    Args:
        W_dec: "latent ... d_model", initial decoder; the encoder starts as its copy.
        b_dec: "... d_model", initial decoder bias in scaled units; `b_enc` starts such that the input is centred.
        shift: "... d_model", raw units.
        scale: "..." one scalar a side, raw units.
        sparsity: rule of the active latents.
        unit_norm: keep decoder rows at norm 1 (else their norms are free and weigh the score).
        score: what weighs an activation when latents compete: the sum of the decoder norms of the sides, the norm of
            both rows as one vector, that plus a tenth of the sum ("mixed"), or nothing.
        pre_bias: subtract `b_dec` before encoding.
        tied: one matrix serves as encoder and decoder, with rows ("rows", needs `unit_norm`) or columns ("columns") of
            norm 1, or "free".
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
        score: Score = "sum",
        pre_bias: bool = False,
        tied: Tied | None = None,
    ) -> None:
        super().__init__()
        self.sparsity = sparsity
        self.unit_norm = unit_norm
        self.score: Score = score
        self.pre_bias = pre_bias
        self.tied: Tied | None = tied
        self.W_enc = nn.Parameter(W_dec.clone())
        self.W_dec = self.W_enc if tied else nn.Parameter(W_dec.clone())
        if tied:
            self.project_weights()
        self.b_enc = nn.Parameter(W_dec.new_zeros(len(W_dec)))
        self.b_dec = nn.Parameter(b_dec.clone())
        self.register_buffer("shift", shift.clone())
        self.register_buffer("scale", scale.clone())
        n_ranges = len(sparsity.budgets(len(W_dec)))
        ranges = (n_ranges,) if n_ranges > 1 else ()
        self.register_buffer("threshold", torch.zeros(ranges))
        # Decayed sum and decayed count of the smallest scores.
        self.register_buffer("threshold_average", torch.zeros(*ranges, 2, dtype=torch.float64))
        self.centre()

    @torch.no_grad()
    def centre(self) -> None:
        """Set the encoder biases to where an input equal to the decoder bias has pre-activations 0."""
        if not self.pre_bias:
            self.b_enc.copy_(-(self.W_enc.flatten(1) @ self.b_dec.flatten()))
        self.sparsity.begin(self.b_enc)

    def scaled(self, x: Shaped[Tensor, "batch *axes"]) -> Float[Tensor, "batch width"]:
        """Return raw activations in scaled units, axes flattened."""
        return ((x.to(self.shift.dtype) - self.shift) / self.scale.unsqueeze(-1)).flatten(1)

    def unscaled(self, y: Float[Tensor, "batch width"]) -> Float[Tensor, "batch *axes"]:
        """Return the inverse of `scaled`."""
        return y.unflatten(1, self.shift.shape) * self.scale.unsqueeze(-1) + self.shift

    def row_norms(self) -> Float[Tensor, " latent"]:
        """Return the sum over sides of each latent's decoder norms, with gradient."""
        norms = torch.linalg.vector_norm(self.W_dec, dim=-1)
        return norms.flatten(1).sum(1) if norms.dim() > 1 else norms

    def score_weights(self) -> Float[Tensor, " latent"] | None:
        """Return the factor `w_j` of each latent's score, detached; None where all are 1 or none competes."""
        if self.unit_norm or self.score == "none" or not self.sparsity.ranks:
            return None
        together = torch.linalg.vector_norm(self.W_dec.detach().flatten(1), dim=1)
        match self.score:
            case "concat":
                return together
            case "mixed":
                return together + SUM_SHARE * self.row_norms().detach()
            case _:
                return self.row_norms().detach()

    def forward(
        self, x: Shaped[Tensor, "batch *axes"], *, gemm: EncodeGemm | None = None, grid: Grid = WHOLE
    ) -> Forward:
        """Run the training rule on a raw batch; in training mode the running threshold follows the batch.

        Ranks of a grid give their own rows of the batch, and hold their own latents; all reconstruct with all latents.
        """
        target = self.scaled(x)
        source = target - self.b_dec.flatten() if self.pre_bias else target
        gemm = gemm or EncodeGemm()
        with parametrize.cached():  # rows that are stored in parts are put together once
            pre = gemm(source, self.W_enc.flatten(1), self.b_enc, exact=not self.sparsity.ranks)
            chosen = self.sparsity.select(pre, self.score_weights(), grid)
            places = places_of_flat(chosen.flat, len(pre), len(self.b_enc))
            z = pre_at(pre, source, self.W_enc.flatten(1), self.b_enc, places)
            values = self.sparsity.values(z, self.b_enc, places)
            recon = total(decode_at(values, self.W_dec.flatten(1), places), grid.latents) + self.b_dec.flatten()
        if self.training and chosen.smallest:
            self._follow(chosen.smallest, grid)
        return Forward(self, target, source, recon, z, values, places, pre, grid)

    def encoder(self, latents: slice | Int[Tensor, " n"] = slice(None)) -> Encoder:
        """Return rows and biases whose product with the scaled input is the activation of an active latent."""
        W, bias, gain = self.W_enc.flatten(1)[latents], self.sparsity.bias(self.b_enc)[latents], self.sparsity.gain()
        W = W if gain is None else W * gain[latents].unsqueeze(1)
        return Encoder(W, bias - W @ self.b_dec.flatten() if self.pre_bias else bias)

    def cutoffs(self) -> Float[Tensor, " latent"]:
        """Return the score above which each latent is active at inference; not for rules that compete in a row."""
        return self.sparsity.cutoffs(self.threshold, self.b_enc).expand(len(self.b_enc))

    @torch.no_grad()
    def encode(self, x: Shaped[Tensor, "batch *axes"]) -> Code:
        """Return the code of raw activations by the inference rule; no gradient, bounded memory."""
        (W, bias), weights, cutoffs = self.encoder(), self.score_weights(), self.cutoffs()
        n_rows = max(1, _CHUNK_BYTES // (4 * len(W)))
        codes = []
        for part in x.split(n_rows) if len(x) else [x]:
            pre = torch.addmm(bias, self.scaled(part), W.T)
            codes.append(code_of_mask(pre, self.sparsity.active(pre, weights, cutoffs)))
        return stack_codes(codes)

    def activations(self, x: Shaped[Tensor, "batch *axes"], latents: Int[Tensor, " n"]) -> Float[Tensor, "batch n"]:
        """Return the inference activations of some latents only, dense; differentiable in x."""
        needed = slice(None) if self.sparsity.per_row else latents
        W, bias = self.encoder(needed)
        pre = torch.addmm(bias, self.scaled(x), W.T)
        weights = self.score_weights()
        weights = None if weights is None else weights[needed]
        f = pre * self.sparsity.active(pre, weights, self.cutoffs()[needed])
        return f[:, latents] if self.sparsity.per_row else f

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
        """After the optimiser: bring decoder rows back to norm 1 (unit norms, and tied columns)."""
        if self.unit_norm or self.tied == "columns":
            axis = 0 if self.tied == "columns" else -1
            self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=axis, keepdim=True).clamp_min(1e-12))

    @torch.no_grad()
    def canonicalise(self) -> None:
        """Rescale free latents so that decoder norms sum to 1 over sides; scores and reconstructions stay.

        A value changes by the factor its decoder row loses. A row of norm 0 is left as it is. Nothing is done where
        it would change scores: tied matrices, and scores that no norm weighs.
        """
        if self.unit_norm or self.tied or (self.score == "none" and self.sparsity.ranks):
            return
        norms = self.row_norms()
        factor = torch.where(norms > 0, norms, 1.0)
        self.sparsity.rescale(factor)
        self.b_enc.mul_(factor)
        factor = factor.reshape(-1, *[1] * (self.shift.dim()))
        self._assign("W_enc", self.W_enc * factor)
        self._assign("W_dec", self.W_dec / factor)

    def _assign(self, name: str, rows: Tensor) -> None:
        if parametrize.is_parametrized(self, name):
            setattr(self, name, rows)
        else:
            self.get_parameter(name).copy_(rows)

    def _follow(self, smallest: tuple[float, ...], grid: Grid) -> None:
        found = grid.world.min(torch.tensor(smallest, dtype=torch.float64))  # small, and on the host already
        if not bool(found.any()):
            return
        found = found.to(self.threshold.device).view(self.threshold.shape)
        self.threshold_average *= _THRESHOLD_DECAY
        self.threshold_average += torch.stack([found, (found > 0).double()], -1)
        total, count = self.threshold_average.unbind(-1)
        self.threshold.copy_(torch.where(count > 0, total / count, 0.0))
