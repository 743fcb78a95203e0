"""Learning rate: default size and its course over a run."""

from saeaudit.training.config import TrainConfig


def default_lr(n_latents: int) -> float:
    """Return the peak rate for a width (arXiv 2406.04093, section 2: proportional to n_latents ** -0.5).

    >>> default_lr(2**14)
    0.0002
    """
    return 2e-4 / (n_latents / 2**14) ** 0.5


def lr_factor(step: int, config: TrainConfig, *, ends_at: int | None = None) -> float:
    """Return the factor in (0, 1] of the peak rate at 0-based `step`: rise, constant, fall.

    Args:
        step: in 0..ends_at-1.
        config: shares of rise and fall, in steps of `config.n_steps`.
        ends_at: steps of a run that stops early; None means `config.n_steps`.

    >>> config = TrainConfig(n_steps=10, warmup=0.2, decay=0.2)
    >>> [lr_factor(step, config) for step in (0, 1, 5, 8, 9)]
    [0.5, 1.0, 1.0, 1.0, 0.5]
    """
    n = config.n_steps
    rise = (step + 1) / max(1.0, config.warmup * n)
    fall = ((ends_at or n) - step) / max(1.0, config.decay * n)
    return min(1.0, rise, fall)
