"""A training step divided among the ranks of a grid: who takes which rows, and what becomes of the gradients."""

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import REPLICATED, SparseCoder
from saeaudit.distributed import Ranks
from saeaudit.errors import ConfigError


def own_rows(x: Float[Tensor, "batch *axes"], ranks: Ranks) -> Float[Tensor, "part *axes"]:
    """Return the rows of a batch that belong to this rank; all have equally many, and in the order of the ranks.

    Raises:
        ConfigError: the rows cannot be divided equally (code `batch-not-divisible`).
    """
    if len(x) % ranks.size:
        raise ConfigError(
            f"a batch of {len(x)} rows cannot be divided among {ranks.size} processes; choose a batch size that is a "
            f"multiple of {ranks.size}",
            code="batch-not-divisible",
        )
    n = len(x) // ranks.size
    return x[ranks.rank * n : (ranks.rank + 1) * n]


def average_gradients(coder: SparseCoder, rows: Ranks) -> None:
    """Replace every gradient by its mean over ranks with other rows: that of the whole batch."""
    for parameter in coder.parameters():
        if parameter.grad is not None:
            parameter.grad = rows.mean(parameter.grad)


def clip_gradients(coder: SparseCoder, max_norm: float, latents: Ranks) -> Float[Tensor, ""]:
    """Scale the gradient of the whole dictionary to a norm of at most `max_norm`; return its norm before."""
    if latents.size == 1:
        return torch.nn.utils.clip_grad_norm_(coder.parameters(), max_norm)
    own, replicated = [], []
    for name, parameter in coder.named_parameters():
        (replicated if name in REPLICATED else own).append(parameter.grad)
    squares = latents.sum(torch.nn.utils.get_total_norm(own).square())
    norm = (squares + torch.nn.utils.get_total_norm(replicated).square()).sqrt()
    torch.nn.utils.clip_grads_with_norm_(coder.parameters(), max_norm, norm)
    return norm
