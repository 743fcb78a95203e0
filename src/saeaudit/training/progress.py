"""Show runs on a terminal: a line for each, with its speed and its fit."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from saeaudit.errors import SaeAuditError
from saeaudit.training.callbacks import Callback


def progress_bars() -> Progress:
    """Return a display that several `RichProgress` share; it shows lines while it is entered as a context."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[fit]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class RichProgress(Callback):
    """A bar with rows/s, FVU (0 is perfect), L0 and the share of dead latents.

    Args:
        name: what stands before the bar.
        bars: display to share with other runs; None makes one that lasts as long as the run.
    """

    def __init__(self, name: str = "training", bars: Progress | None = None) -> None:
        self._name, self._owns = name, bars is None
        self._bars = progress_bars() if bars is None else bars
        self._task: TaskID | None = None

    def on_start(self, info: Mapping[str, int]) -> None:
        """Draw the bar."""
        self._task = self._bars.add_task(self._name, total=info["n_steps"], completed=info["first_step"], fit="")
        if self._owns:
            self._bars.start()

    def on_log(self, metrics: Mapping[str, float]) -> None:
        """Move the bar."""
        if self._task is not None:
            fit = (
                f"{metrics['tokens_per_second']:.0f} rows/s  FVU {metrics['fvu']:.3f}  L0 {metrics['l0']:.1f}  "
                f"dead {metrics['dead_share']:.1%}"
            )
            self._bars.update(self._task, completed=metrics["step"], fit=fit)

    def on_end(self, metrics: Mapping[str, float]) -> None:
        """Leave the finished bar on the screen; its end is where the run ended, even if that was early."""
        if self._task is not None:
            self._bars.update(self._task, total=metrics["step"])
        self._stop()

    def on_fail(self, error: BaseException) -> None:
        """Leave the bar where it is, with what happened."""
        if self._task is not None:
            self._bars.update(self._task, fit=error.code if isinstance(error, SaeAuditError) else type(error).__name__)
        self._stop()

    def _stop(self) -> None:
        if self._owns:
            self._bars.stop()
