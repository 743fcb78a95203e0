"""Show a run in TensorBoard; needs the extra `tensorboard`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from saeaudit.errors import MissingExtra
from saeaudit.training.callbacks import Callback

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard(Callback):
    """Write every number of a log as a scalar over steps.

    Args:
        directory: of this run; runs are compared by pointing TensorBoard at the directory above.

    Raises:
        MissingExtra: tensorboard is not installed ("tensorboard-missing").
    """

    _writer: "SummaryWriter | None" = None

    def __init__(self, directory: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra(
                "logs for TensorBoard were asked for, but tensorboard is not installed; install it: "
                "pip install 'saeaudit[tensorboard]'",
                code="tensorboard-missing",
            ) from None
        self._directory, self._open = directory, SummaryWriter

    def on_start(self, info: Mapping[str, int]) -> None:
        """Begin at the run's first step; what a killed process logged after it is dropped from the curves."""
        self._writer = self._open(str(self._directory), purge_step=info["first_step"] + 1)

    def on_log(self, metrics: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        if self._writer is not None:
            for name, number in metrics.items():
                self._writer.add_scalar(name, number, int(metrics["step"]))

    def on_end(self, metrics: Mapping[str, float]) -> None:
        """Close the file."""
        self._close()

    def on_fail(self, error: BaseException) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
