"""Go on from a residual that is known already: the counterpart of `run_blocks`."""

from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from saeaudit.errors import ModelError
from saeaudit.models.blocks import with_child
from saeaudit.models.sites import blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def resumed_at(model: "PreTrainedModel", n_blocks: int, h: Float[Tensor, "batch pos d_model"]) -> "PreTrainedModel":
    """Return a copy of `model`, sharing all parameters, whose first `n_blocks` blocks hand on `h` instead of running.

    Call it with the token ids, mask and positions that made `h`: masks, positions and the head are the model's own code
    (some families scale or cap their logits), so with the residual of a full pass it gives that pass's logits. With a
    KV cache, the layers of the blocks that do not run are not extended.

    Raises:
        ModelError: `n_blocks` is not in 1..L (code `unknown-site`).
    """
    stack = blocks(model)
    if not 1 <= n_blocks <= len(stack):
        raise ModelError(
            f"going on after {n_blocks} blocks was asked for; possible are 1 to {len(stack)}", code="unknown-site"
        )
    above = nn.ModuleList([*(_Given(block, h) for block in stack[:n_blocks]), *stack[n_blocks:]])
    return cast("PreTrainedModel", with_child(model, stack, above))


class _Given(nn.Module):
    """Stands for a block that does not run: hands on the residual that is known already."""

    def __init__(self, block: nn.Module, h: Tensor) -> None:
        super().__init__()
        self._h = h
        if hasattr(block, "attention_type"):
            self.attention_type = block.attention_type

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self._h
