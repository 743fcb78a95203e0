"""Stages that are done once: each writes its record, and the same command continues after the last finished one.

A stage's file holds the hash of what went in and the record that came out. Another input makes the stage, and all that
depend on its record, run again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel, ConfigDict, ValidationError

from saeaudit.artifacts import content_hash, read_json, write_json

SCHEMA = 1
STAGES = "stages"

R = TypeVar("R", bound=BaseModel)


class Record(BaseModel):
    """Base of stage records: frozen JSON data."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@runtime_checkable
class Watcher(Protocol):
    """Sees what a run does; the command line draws it, a notebook may ignore it."""

    def stage(self, name: str) -> None: ...

    def skipped(self, name: str, reason: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """A watcher that shows nothing."""

    def stage(self, name: str) -> None:
        """Ignore."""

    def skipped(self, name: str, reason: str) -> None:
        """Ignore."""

    def progress(self, done: int, total: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class Stages:
    """Run stages of one output directory.

    Attributes:
        seconds: what each stage took when it was really done, in this run or an earlier one.
    """

    def __init__(self, directory: Path, watcher: Watcher, *, label: str = "") -> None:
        self._directory = directory / STAGES
        self._watcher = watcher
        self._label = label
        self.seconds: dict[str, float] = {}

    def forget(self, name: str) -> None:
        """Make stage `name` run again: what it left on disk beside its record is gone."""
        (self._directory / f"{name}.json").unlink(missing_ok=True)

    def recall(self, name: str) -> None:
        """Fill in the seconds of stage `name` where an earlier run did it and this one had no need of it."""
        path = self._directory / f"{name}.json"
        if name not in self.seconds and path.is_file():
            self.seconds[name] = float(read_json(path, schema=SCHEMA).get("seconds") or 0.0)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Announce and time a stage; one that leaves no record is done by every run."""
        self._watcher.stage(f"{self._label}{name}")
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def run(self, name: str, inputs: Any, record: type[R], compute: Callable[[], R]) -> R:
        """Return the record of stage `name`, from disk if it was made from the same inputs."""
        path = self._directory / f"{name}.json"
        wanted = content_hash(inputs)
        title = f"{self._label}{name}"
        if path.is_file():
            stored = read_json(path, schema=SCHEMA)
            if stored.get("inputs") == wanted:
                try:
                    found, seconds = record.model_validate(stored["record"]), float(stored["seconds"])
                except (ValidationError, KeyError, TypeError, ValueError):
                    self._watcher.note(f"{title}: the stored record is of another version, it is made again")
                else:
                    if name not in self.seconds:
                        self._watcher.skipped(title, "done before")
                    self.seconds[name] = seconds
                    return found
        with self.timed(name):
            found = compute()
        write_json(
            path,
            {
                "schema": SCHEMA,
                "inputs": wanted,
                "seconds": self.seconds[name],
                "record": found.model_dump(mode="json", by_alias=True),
            },
        )
        return found
