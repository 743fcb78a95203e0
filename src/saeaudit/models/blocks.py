"""Run only the first blocks of a model.

1. Copy the decoder's Python object, not its tensors: the copy has its own dictionary of children.
2. In the copy, replace the last needed block by a shallow copy of it that carries one more hook.
3. Call the copy. The hook keeps the block's output and stops the pass, so no later block, no final norm and no LM head
   runs, and nothing of the caller's model changes.

Embeddings, masks and positions come from the model's own code, so the result equals the full pass bit for bit, and
`Capture` and `Edit` on the kept blocks work as in a full pass.
"""

import copy
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from saeaudit.errors import ModelError
from saeaudit.models.hooks import residual
from saeaudit.models.sites import blocks, decoder
from saeaudit.models.tokens import position_ids

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class _Reached(Exception):
    """Leaves the forward pass with the residual stream."""

    def __init__(self, h: Tensor) -> None:
        super().__init__()
        self.h = h


def run_blocks(
    model: "PreTrainedModel",
    input_ids: Int[Tensor, "batch pos"],
    attention_mask: Int[Tensor, "batch total"],
    n_blocks: int,
    *,
    cache: "Cache | None" = None,
) -> Float[Tensor, "batch pos d_model"]:
    """Return the residual stream after the first `n_blocks` blocks (0: the embeddings that enter block 0).

    Positions count from the first unmasked token of each row, so left and right padding give the same values at
    tokens. Values at padding mean nothing. Gradients follow the caller's setting. With `cache`, keys and values of the
    run blocks are appended to it, `attention_mask` covers cached and new columns, and only new columns are returned.

    Raises:
        ModelError: `n_blocks` is not in 0..L (code `unknown-site`).
    """
    module = decoder(model)
    stack = blocks(model)
    if not 0 <= n_blocks <= len(stack):
        raise ModelError(
            f"the first {n_blocks} blocks were asked for; possible are 0 to {len(stack)}",
            code="unknown-site",
        )
    try:
        _prefix(module, stack, n_blocks)(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids(attention_mask)[:, -input_ids.shape[1] :],
            past_key_values=cache,
            use_cache=cache is not None,
        )
    except _Reached as reached:
        return reached.h
    raise ModelError(
        f"{type(model).__name__} did not run its blocks as a list; this architecture is not supported",
        code="unsupported-architecture",
    )


def _prefix(module: nn.Module, stack: nn.ModuleList, n_blocks: int) -> nn.Module:
    """Return a copy of the decoder, sharing all parameters, whose forward ends after `n_blocks` blocks."""
    last = _own(stack[max(n_blocks - 1, 0)])
    if n_blocks == 0:
        last.register_forward_pre_hook(_stop_before, with_kwargs=True)
    else:
        last.register_forward_hook(_stop_after)
    kept = [*stack[: max(n_blocks - 1, 0)], last]
    return with_child(module, stack, nn.ModuleList([*kept, *stack[len(kept) :]]))


def with_child(module: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Return a shallow copy of `module` in which the descendant `old` is `new`."""
    if module is old:
        return new
    result = copy.copy(module)
    result._modules = {
        name: with_child(child, old, new) if child is not None and any(m is old for m in child.modules()) else child
        for name, child in module._modules.items()
    }
    return result


def _own(block: nn.Module) -> nn.Module:
    """Return a shallow copy of a block with its own hook tables; the hooks already there stay, tensors are shared."""
    result = copy.copy(block)
    for table in ("_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"):
        setattr(result, table, copy.copy(getattr(block, table)))
    return result


def _stop_after(module: nn.Module, args: Any, output: Any) -> None:
    raise _Reached(residual(output))


def _stop_before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    raise _Reached(args[0] if args else kwargs["hidden_states"])
