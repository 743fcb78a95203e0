"""Everything of a run that changes from step to step, apart from weights and moments."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saeaudit.dictionaries import Forward
from saeaudit.distributed import ALONE, Ranks
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
        sums: sums over the steps since the last log, fp64, on the device; `read_sums` gives numbers.
        metrics: the last logged numbers.
        patience: how long the fit has not improved.
    """

    firing: FiringRecord
    ends_at: int
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)

    def add(self, forward: Forward, losses: Mapping[str, Tensor], *, grad_norm: Tensor, lr: float) -> None:
        """Count one finished step; the host does not wait for a GPU."""
        n_rows, grid = len(forward.target), forward.grid
        active = forward.values.detach() > 0
        self.firing.update(forward.places.latents, active, n_rows, grid.rows)
        self.step += 1
        terms = {f"loss/{name}": loss.detach().double() for name, loss in losses.items()}
        of_host = {"rows": n_rows, "steps": 1, "lr": lr}
        numbers = {
            # Filled in on the device; to copy them there, the host would wait.
            **{name: torch.full_like(grad_norm, number, dtype=torch.float64) for name, number in of_host.items()},
            "loss": sum(terms.values(), torch.zeros((), dtype=torch.float64)),
            **terms,
            "fvu": forward.fvu.detach().double() * n_rows,
            "l0": active.sum().double() * grid.latents.size,  # ranks that divide the latents of a row count their own
            "grad_norm": grad_norm.double(),
        }
        means = grid.world.mean(torch.stack(list(numbers.values())))
        for name, mean in zip(numbers, means.unbind(), strict=True):
            self.sums[name] = self.sums[name] + mean if name in self.sums else mean

    def read_sums(self) -> dict[str, float]:
        """Return the sums as numbers; a GPU is waited for once."""
        return dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True)) if self.sums else {}

    def log(self, dead_after: int, shares: Mapping[str, float], latents: Ranks = ALONE) -> dict[str, float]:
        """Return the means since the last log, and begin the next window.

        Args:
            dead_after: rows without firing after which a latent is dead.
            shares: each term's share in the gradient of the last step.
            latents: ranks that divide the latents.
        """
        sums, self.sums = self.read_sums(), {}
        rows, steps = sums.pop("rows"), sums.pop("steps")
        self.metrics = {
            "step": float(self.step),
            "n_tokens": float(self.firing.n_rows),
            **{name: total / (rows if name in ("fvu", "l0") else steps) for name, total in sums.items()},
            **{f"grad_share/{name}": share for name, share in shares.items()},
            "dead_share": float(latents.mean(self.firing.dead(dead_after).float().mean())),
            "seconds": self.seconds,
            "tokens_per_second": self.firing.n_rows / max(self.seconds, 1e-9),
        }
        return self.metrics
