"""Write every log of a run as a line of JSON."""

import json
from collections.abc import Mapping
from pathlib import Path

from saeaudit.artifacts import disk_errors, write_bytes
from saeaudit.training.callbacks import Callback


class JsonLines(Callback):
    """One object a line, one line a log; each line is on disk before the next step.

    A run that continues keeps the lines up to its first step: what a killed process logged after its last checkpoint is
    logged again.

    Args:
        path: the file; it is replaced where a run starts from the beginning.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, info: Mapping[str, int]) -> None:
        """Keep what was logged before the first step.

        Raises:
            ResourceError: the file cannot be written.
        """
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.is_file() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= info["first_step"]]
        write_bytes(self._path, "".join(kept).encode())

    def on_log(self, metrics: Mapping[str, float]) -> None:
        """Add a line.

        Raises:
            ResourceError: the disk is full.
        """
        with disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(dict(metrics), allow_nan=False) + "\n")
