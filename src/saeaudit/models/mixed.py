"""Mixed precision: weight products in bfloat16, everything between them in float32.

The difference of two models is small against their residual streams, so what matters is where rounding happens. In pure
bfloat16 every block rounds the whole stream; here the stream, the norms, attention and the output head stay in float32
and rounding is left to the inputs of the big products and the inside of an MLP. What remains of a difference is
measured in docs/precision.md.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class MixedLinear(nn.Module):
    """A linear layer with bfloat16 weights that returns the dtype it had, or bfloat16 if its output is `inside`."""

    def __init__(self, linear: nn.Linear, *, inside: bool = False) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.dtype = torch.bfloat16 if inside else linear.weight.dtype
        self.weight = nn.Parameter(linear.weight.detach().to(torch.bfloat16), requires_grad=False)
        self.bias = None
        if linear.bias is not None:
            self.bias = nn.Parameter(linear.bias.detach().to(torch.bfloat16), requires_grad=False)

    def forward(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """Return x @ weight.T + bias."""
        return nn.functional.linear(x.to(torch.bfloat16), self.weight, self.bias).to(self.dtype)


def use_mixed_precision(model: "PreTrainedModel") -> None:
    """Replace the linear layers of `model` in place, except the output head (its rounding would reach the logits)."""
    head = model.get_output_embeddings()
    width = getattr(model.config.get_text_config(), "intermediate_size", None)
    for parent in list(model.modules()):
        linear = {n: c for n, c in parent.named_children() if type(c) is nn.Linear and c is not head}
        is_mlp = any(child.in_features == width for child in linear.values())
        for name, child in linear.items():
            setattr(parent, name, MixedLinear(child, inside=is_mlp and child.out_features == width))


def is_mixed(model: nn.Module) -> bool:
    """Return whether `use_mixed_precision` was applied."""
    return any(isinstance(module, MixedLinear) for module in model.modules())
