"""What ranks that hold different latents add up: partial decodes of the same rows."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.distributed import Ranks


def total(partial: Float[Tensor, "batch width"], ranks: Ranks) -> Float[Tensor, "batch width"]:
    """Return the sum over ranks; the gradient of the sum goes to the part of every rank as it is.

    Every rank computes the same loss from the same sum, so each already has the whole gradient, and nothing is
    exchanged in the backward pass.
    """
    return partial if ranks.size == 1 else _Total.apply(partial, ranks)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, partial: Tensor, ranks: Ranks) -> Tensor:
        return ranks.sum(partial.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad_outputs[0], None
