"""Has the fit stopped improving? Judged on the logged FVU, while the learning rate is at its peak."""

from dataclasses import dataclass

from saeaudit.training.config import EarlyStop


@dataclass
class Patience:
    """Logs since the last improvement.

    Attributes:
        best: lowest FVU that counted as an improvement; None before the first.
        waited: logs since then.
    """

    best: float | None = None
    waited: int = 0

    def exhausted(self, fvu: float, rule: EarlyStop) -> bool:
        """Count one log; return whether `rule.patience` logs in a row brought no improvement."""
        if self.best is None or fvu <= self.best * (1 - rule.min_improvement):
            self.best, self.waited = fvu, 0
        else:
            self.waited += 1
        return self.waited >= rule.patience
