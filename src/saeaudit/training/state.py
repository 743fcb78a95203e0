"""Everything of a run that changes from step to step, apart from weights and moments."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeaudit.dictionaries import Forward
from saeaudit.errors import NumericsError
from saeaudit.training.dead import FiringRecord


@dataclass
class RunState:
    """Counters of a run.

    Attributes:
        firing: when each latent last fired.
        step: steps done.
        seconds: time spent in steps before this process took over.
        sums: sums over the steps since the last log.
        metrics: the last logged numbers.
    """

    firing: FiringRecord
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    _began: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Return the seconds of the whole run."""
        return self.seconds + time.perf_counter() - self._began

    def add(self, forward: Forward, losses: Mapping[str, Tensor], *, grad_norm: Tensor, lr: float) -> None:
        """Count one finished step."""
        n_rows = len(forward.target)
        fired = forward.places.latents[forward.values.detach() > 0]
        self.firing.update(fired, n_rows)
        self.step += 1
        numbers = {
            "rows": n_rows,
            "steps": 1,
            "loss": sum(float(loss.detach()) for loss in losses.values()),
            **{f"loss/{name}": float(loss.detach()) for name, loss in losses.items()},
            "fvu": float(forward.fvu.detach()) * n_rows,
            "l0": len(fired),
            "grad_norm": float(grad_norm),
            "lr": lr,
        }
        for name, number in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + number

    def log(self, dead_after: int) -> dict[str, float]:
        """Return the means since the last log, and begin the next window."""
        sums, self.sums = self.sums, {}
        rows, steps = sums.pop("rows"), sums.pop("steps")
        seconds = self.elapsed()
        self.metrics = {
            "step": float(self.step),
            "n_tokens": float(self.firing.n_rows),
            **{name: total / (rows if name in ("fvu", "l0") else steps) for name, total in sums.items()},
            "dead_share": float(self.firing.dead(dead_after).float().mean()),
            "seconds": seconds,
            "tokens_per_second": self.firing.n_rows / max(seconds, 1e-9),
        }
        return self.metrics


def require_finite(loss: Tensor, *, step: int, last_checkpoint: str | None) -> None:
    """Check a loss before it reaches the weights.

    Raises:
        NumericsError: code "training-diverged"; the text names the step and the last checkpoint.
    """
    if not bool(torch.isfinite(loss)):
        kept = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "no checkpoint was written"
        raise NumericsError(
            f"the loss became {float(loss.detach())} at step {step} (counted from 0); {kept}. Check the batch of that "
            "step for NaN or infinite activations, or lower the learning rate",
            code="training-diverged",
        )
