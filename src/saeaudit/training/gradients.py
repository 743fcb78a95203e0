"""The gradient of a step: that of the whole batch on every rank, without the part that unit norms would undo."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import REPLICATED, SparseCoder
from saeaudit.distributed import Grid, Ranks


def backward(loss: Float[Tensor, ""], coder: SparseCoder, grid: Grid, *, keep_graph: bool = False) -> Float[Tensor, ""]:
    """Add the gradient of `loss` to every parameter's; return the norm of all of them together.

    Ranks with other rows take the mean, which is the gradient of the whole batch.
    """
    loss.backward(retain_graph=keep_graph)
    for parameter in coder.parameters():
        if parameter.grad is not None:
            parameter.grad = grid.rows.mean(parameter.grad)
    coder.project_gradient()
    return _norm(coder, grid.latents)


def clip(coder: SparseCoder, max_norm: float, norm: Float[Tensor, ""]) -> None:
    """Scale the gradient of the whole dictionary, whose norm is `norm`, to a norm of at most `max_norm`."""
    torch.nn.utils.clip_grads_with_norm_(coder.parameters(), max_norm, norm)


def gradient_shares(losses: Mapping[str, Float[Tensor, ""]], coder: SparseCoder, grid: Grid) -> dict[str, float]:
    """Return the norm of each term's own gradient over the sum of these norms; all are 0 where every gradient is 0.

    It takes a backward pass a term, keeps the graph, and leaves no gradient behind. A term without a graph adds nothing
    (AuxK while no latent is dead), and where only one has a graph, nothing need be computed.
    """
    moving = [name for name, loss in losses.items() if loss.requires_grad]
    if len(moving) == 1:
        return {name: float(name in moving) for name in losses}
    norms = dict.fromkeys(losses, 0.0)
    for name in moving:
        norms[name] = float(backward(losses[name], coder, grid, keep_graph=True))
        coder.zero_grad()
    total = sum(norms.values())
    return {name: norm / total if total > 0 else 0.0 for name, norm in norms.items()}


def _norm(coder: SparseCoder, latents: Ranks) -> Float[Tensor, ""]:
    grads = {name: parameter.grad for name, parameter in coder.named_parameters() if parameter.grad is not None}
    if latents.size == 1:
        return torch.nn.utils.get_total_norm(grads.values())
    own, replicated = (
        torch.nn.utils.get_total_norm([grad for name, grad in grads.items() if (name in REPLICATED) == everywhere])
        for everywhere in (False, True)
    )
    return (latents.sum(own.square()) + replicated.square()).sqrt()
