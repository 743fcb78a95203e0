"""Everything of a run that changes from step to step, apart from weights and moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from saeaudit.dictionaries import Forward
from saeaudit.distributed import ALONE, Ranks
from saeaudit.errors import NumericsError
from saeaudit.training.dead import FiringRecord
from saeaudit.training.early_stop import Patience


@dataclass
class RunState:
    """Counters of a run.

    Attributes:
        firing: when each latent last fired.
        ends_at: steps of the whole run; fewer than were asked once it has stopped early.
        step: steps done.
        seconds: time spent in its steps, over all processes that worked on it.
        sums: sums over the steps since the last log.
        metrics: the last logged numbers.
        patience: how long the fit has not improved.
    """

    firing: FiringRecord
    ends_at: int
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)

    def add(self, forward: Forward, losses: Mapping[str, Tensor], *, grad_norm: Tensor, lr: float) -> None:
        """Count one finished step."""
        n_rows, grid = len(forward.target), forward.grid
        fired = forward.places.latents[forward.values.detach() > 0]
        self.firing.update(fired, n_rows, grid.rows)
        self.step += 1
        numbers = {
            "rows": n_rows,
            "steps": 1,
            "loss": sum(float(loss.detach()) for loss in losses.values()),
            **{f"loss/{name}": float(loss.detach()) for name, loss in losses.items()},
            "fvu": float(forward.fvu.detach()) * n_rows,
            "l0": len(fired) * grid.latents.size,  # ranks that divide the latents of a row count their own
            "grad_norm": float(grad_norm),
            "lr": lr,
        }
        means = grid.world.mean(torch.tensor([*numbers.values()], dtype=torch.float64))
        for name, number in zip(numbers, means.tolist(), strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + number

    def log(self, dead_after: int, latents: Ranks = ALONE) -> dict[str, float]:
        """Return the means since the last log, and begin the next window; ranks may divide the latents."""
        sums, self.sums = self.sums, {}
        rows, steps = sums.pop("rows"), sums.pop("steps")
        self.metrics = {
            "step": float(self.step),
            "n_tokens": float(self.firing.n_rows),
            **{name: total / (rows if name in ("fvu", "l0") else steps) for name, total in sums.items()},
            "dead_share": float(latents.mean(self.firing.dead(dead_after).float().mean())),
            "seconds": self.seconds,
            "tokens_per_second": self.firing.n_rows / max(self.seconds, 1e-9),
        }
        return self.metrics


def require_finite(what: str, number: Tensor, *, step: int, last_checkpoint: Path | None) -> None:
    """Check a number of a step before it reaches the weights.

    Raises:
        NumericsError: code "training-diverged"; the text names the step and the last checkpoint.
    """
    if not bool(torch.isfinite(number)):
        kept = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "no checkpoint was written"
        raise NumericsError(
            f"{what} became {float(number.detach())} at step {step} (counted from 0); {kept}. Check the batch of that "
            "step for NaN or infinite activations, or lower the learning rate",
            code="training-diverged",
        )
