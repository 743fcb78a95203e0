"""A process in another environment that does a piece of work whenever it is told to, and waits in between."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

PYTHON = Path(__file__).parent / ".venv" / "bin" / "python"
_LAST_LINES = 15


class Worker:
    """A process whose other end is `peers.parent`; a context manager that ends the process on the way out.

    Args:
        python: interpreter of the library's environment.
        module: what it runs.
        job: JSON values; `threads` is set before the process starts.
        log: receives what the library prints.
    """

    def __init__(self, python: Path, module: str, job: Mapping[str, Any], log: Path) -> None:
        self._log = log
        with log.open("w") as stream:
            self._process = subprocess.Popen(
                [str(python), "-m", module, json.dumps(job)],
                cwd=Path(__file__).parents[1],
                env=os.environ | {"OMP_NUM_THREADS": str(job["threads"]), "HF_HUB_OFFLINE": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def __enter__(self) -> "Worker":
        self._receive()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()

    def advance(self) -> dict[str, Any]:
        """Let the process go on to its next stop, and return what it reports there."""
        assert self._process.stdin is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
            raise SystemExit("\n".join([f"{self._log.stem} ended early; its last lines were", *last]))
        return json.loads(line)
