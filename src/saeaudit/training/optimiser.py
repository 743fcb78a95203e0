"""Adam with a rate of its own for biases.

Adam moves every number by about one rate a step, whatever its gradient. Rows of norm 1 have entries of size 1/sqrt(d);
against input coordinates of size 1 a bias therefore learns sqrt(d) times more slowly than they do. Under a penalty the
encoder bias is what makes latents sparse and has a long way to go. Where latents compete for a given number of places
it has none, and a fast one settles on mixtures of features early. Gains and logarithms of thresholds are relative
already and keep the rate of the weights.
"""

import torch

from saeaudit.dictionaries import SparseCoder
from saeaudit.training.config import TrainConfig

BIASES = ("b_enc", "b_dec", "b_mag")


def adam(coder: SparseCoder, config: TrainConfig) -> torch.optim.Adam:
    """Return the optimiser of a run; `set_rate` must be called before its first step."""
    groups: tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]] = [], []
    for name, parameter in coder.named_parameters():
        groups[name.split(".")[-1] in BIASES].append(parameter)
    weights, biases = groups
    return torch.optim.Adam(
        [{"params": weights, "factor": 1.0}, {"params": biases, "factor": _bias_factor(coder, config)}],
        betas=config.betas or (0.9, 0.999),
        fused=True,
    )


def set_rate(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Give each group its rate for the next step; `lr` is that of the weights."""
    for group in optimiser.param_groups:
        group["lr"] = lr * group["factor"]


def _bias_factor(coder: SparseCoder, config: TrainConfig) -> float:
    if config.bias_lr_factor is not None:
        return config.bias_lr_factor
    return 1.0 if coder.sparsity.ranks else coder.b_dec.numel() ** 0.5
