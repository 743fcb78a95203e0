"""A watcher that draws stages on stderr: bars with the time left on a terminal, one line a stage anywhere else."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from saeaudit.cli.screen import complain
from saeaudit.distributed import launched_rank


class PlainWatcher:
    """One line for each stage, with the seconds since the start; no line if not `shown`."""

    def __init__(self, *, shown: bool = True) -> None:
        self._start, self._shown = time.monotonic(), shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._line("done" if kind is None else "stopped")

    def stage(self, name: str) -> None:
        """Print the stage that begins."""
        self._line(name)

    def skipped(self, name: str, reason: str) -> None:
        """Print the stage that is not run."""
        self._line(f"{name}: {reason}")

    def progress(self, done: int, total: int) -> None:
        """Print nothing: a log should not grow with the work."""

    def note(self, text: str) -> None:
        """Print a note."""
        self._line(text)

    def _line(self, text: str) -> None:
        if self._shown:
            complain(f"{time.monotonic() - self._start:6.0f} s  {text}")


class BarWatcher:
    """A bar for each stage with elapsed and remaining time; finished stages stay on the screen."""

    def __init__(self) -> None:
        # The stream of now: the loaders replace `sys.stderr` for a moment to silence other libraries.
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            refresh_per_second=4,
            # Stages differ in speed by a lot within themselves; a short window makes the time left jump.
            speed_estimate_period=120,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self._finish()
        self._bars.stop()

    def stage(self, name: str) -> None:
        """Finish the bar of the last stage and begin another."""
        self._finish()
        self._task = self._bars.add_task(name, total=None)

    def skipped(self, name: str, reason: str) -> None:
        """Say that a stage is not run."""
        self.note(f"{name}: {reason}")

    def progress(self, done: int, total: int) -> None:
        """Move the bar of the stage."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def _finish(self) -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=1, total=1)
            self._bars.stop_task(self._task)
            self._task = None


def watch() -> PlainWatcher | BarWatcher:
    """Return the watcher that fits stderr, as a context manager; of several processes the first alone is watched."""
    first = launched_rank() == 0
    return BarWatcher() if first and sys.stderr.isatty() else PlainWatcher(shown=first)
