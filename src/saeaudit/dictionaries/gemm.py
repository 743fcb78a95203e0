"""The one dense product of a training step: all pre-activations, without a gradient graph.

In bfloat16 the product only *proposes* places: the chosen values are computed again in fp32, so rounding can flip
near-ties and nothing else. Rules with fixed thresholds need every place above one and take the exact product.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

# Rows of the product's inputs are padded to a multiple of this, so that they stay aligned.
_COLUMNS = 16

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of the encoder product; "auto" is bfloat16 only where the hardware multiplies it faster."""
    if precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
    if device.type == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        fast = device.type == "cuda"
    return torch.bfloat16 if fast else torch.float32


class EncodeGemm:
    """Compute `x W^T + b` into a buffer that is used again by the next call.

    A fresh "batch latent" tensor each step costs a tenth of the product in page faults alone. In bfloat16 the bias is
    the weight of one more input that is always 1: a pass over the result to add it would cost a quarter of the product.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._buffers: dict[str, Tensor] = {}

    @torch.no_grad()
    def __call__(
        self,
        x: Float[Tensor, "batch width"],
        W: Float[Tensor, "latent width"],
        b: Float[Tensor, " latent"],
        *,
        exact: bool = False,
    ) -> Float[Tensor, "batch latent"]:
        """Return the pre-activations, unrounded if `exact`; the result is overwritten by the next call."""
        if exact or x.dtype != torch.float32 or self.dtype == torch.float32:
            return torch.addmm(b, x, W.T, out=self._buffer("pre", x, len(x), len(W), x.dtype))
        width = x.shape[1]
        padded = -(-(width + 1) // _COLUMNS) * _COLUMNS
        left = self._buffer("x", x, len(x), padded, self.dtype)
        right = self._buffer("W", x, len(W), padded, self.dtype)
        left[:, :width], left[:, width] = x, 1
        right[:, :width], right[:, width] = W, b
        return torch.mm(left, right.T, out=self._buffer("pre", x, len(x), len(W), self.dtype))

    def _buffer(self, name: str, like: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return the last call's buffer if it still fits, else a new one of zeros."""
        found = self._buffers.get(name)
        if found is None or (found.shape, found.dtype, found.device) != ((rows, columns), dtype, like.device):
            found = self._buffers[name] = torch.zeros(rows, columns, dtype=dtype, device=like.device)
        return found
