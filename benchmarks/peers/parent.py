"""The side of a child process in `peers.process`: report, wait, go on. Messages are lines of JSON."""

import json
import os
import sys
import time
from typing import Any


class Parent:
    """The process that started this one; what libraries print goes to the standard error, out of the way."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._resumed: float | None = None

    def pause(self) -> None:
        """Report the seconds since the last pause and wait; end with the parent."""
        self.send({"seconds": None if self._resumed is None else time.perf_counter() - self._resumed})
        if not sys.stdin.readline():
            sys.exit("the parent process ended")
        self._resumed = time.perf_counter()

    def send(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()
