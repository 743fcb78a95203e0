"""Kullback-Leibler divergence between next-token distributions."""

from jaxtyping import Float
from torch import Tensor


def token_kl(
    logits: Float[Tensor, "*token vocab"], reference: Float[Tensor, "*token vocab"]
) -> Float[Tensor, "*token"]:
    """Return KL(softmax(logits) ‖ softmax(reference)) per token in nats; 0 is equal, no upper bound.

    Computed in fp32 whatever the dtype of the logits; rounding below 0 is clipped.
    """
    p = logits.float().log_softmax(-1)
    q = reference.float().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)
