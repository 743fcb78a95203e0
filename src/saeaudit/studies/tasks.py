"""Tasks of a study: independent pieces of work, each remembered on disk, run here or on a Ray cluster.

A task is a module-level function of the study's directory and of plain arguments; its record is the file
`tasks/NAME.json`, which holds the hash of its function's name, of its arguments and of the tasks it follows. The same
command therefore does what is missing, whatever was done where. A task that fails is recorded as failed and does not
stop the others; those that follow it are not tried.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from saeaudit.artifacts import content_hash, read_json, write_json
from saeaudit.audit.stages import Silent, Watcher
from saeaudit.errors import ArtifactError, SaeAuditError
from saeaudit.findings import Record
from saeaudit.wording import counted, duration

SCHEMA = 1

R = TypeVar("R", bound=Record)
Work = Callable[..., Record]


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        name: unique, usable as a file name.
        work: `work(directory, watcher, **arguments)`; it may read what earlier tasks left in the directory.
        arguments: JSON values.
        record: what it returns.
        after: names of the tasks whose products it reads.
        product: file or directory below the study's directory without which the record is worth nothing.
        support: it is only done when an unfinished task reads what it makes.
    """

    name: str
    work: Work
    arguments: Mapping[str, Any]
    record: type[Record]
    after: tuple[str, ...] = ()
    product: str | None = None
    support: bool = False


@dataclass
class Finished:
    """How the tasks ended: records and seconds by name, and what stopped the others."""

    records: dict[str, Record] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def recall(directory: Path, name: str, record: type[R]) -> R:
    """Return the record of a task that is done, for a task that follows it."""
    return record.model_validate(read_json(_path(directory, name), schema=SCHEMA)["record"])


def _path(directory: Path, name: str) -> Path:
    return directory / "tasks" / f"{name}.json"


class Plan:
    """The tasks of a study in an order in which each follows those it reads."""

    def __init__(self, directory: Path, tasks: Sequence[Task]) -> None:
        self.directory = directory
        self.tasks = {task.name: task for task in tasks}
        if len(self.tasks) != len(tasks):
            raise ValueError("two tasks share a name")
        self._inputs: dict[str, str] = {}
        for task in tasks:
            before = [self._inputs[name] for name in task.after]
            self._inputs[task.name] = content_hash([task.work.__qualname__, task.arguments, before])

    def finished(self) -> Finished:
        """Return what is done."""
        found = Finished()
        for name, task in self.tasks.items():
            if (stored := self._stored(task)) is not None:
                found.records[name], found.seconds[name] = stored
        return found

    def missing(self, finished: Finished) -> list[Task]:
        """Return the tasks to run, in order; support tasks only where one of these reads what they make."""
        wanted: set[str] = set()
        for name, task in reversed(self.tasks.items()):
            if name not in finished.records and (not task.support or name in wanted):
                wanted |= {name, *task.after}
        return [task for name, task in self.tasks.items() if name in wanted and name not in finished.records]

    def run(self, task: Task, watcher: Watcher) -> tuple[Record, float]:
        """Do one task in this process; keep and return its record and seconds."""
        start = time.monotonic()
        record = task.work(self.directory, watcher, **task.arguments)
        seconds = time.monotonic() - start
        kept = {"schema": SCHEMA, "inputs": self._inputs[task.name], "seconds": seconds}
        write_json(_path(self.directory, task.name), kept | {"record": record.model_dump(mode="json", by_alias=True)})
        return record, seconds

    def _stored(self, task: Task) -> tuple[Record, float] | None:
        path = _path(self.directory, task.name)
        if not path.is_file() or (task.product is not None and not (self.directory / task.product).exists()):
            return None
        try:
            found = read_json(path, schema=SCHEMA)
            if found["inputs"] != self._inputs[task.name]:
                return None
            return task.record.model_validate(found["record"]), float(found["seconds"])
        except (ArtifactError, ValidationError, KeyError, TypeError, ValueError):
            return None  # broken, or of another version: it is made again


Engine = Callable[[Plan, Watcher | None], Finished]


def run_here(plan: Plan, watcher: Watcher | None = None) -> Finished:
    """Do what is missing, one task after the other."""
    watcher = watcher or Silent()
    finished = plan.finished()
    missing = plan.missing(finished)
    if finished.records:
        watcher.note(f"{counted(len(finished.records), 'task')} done before")
    for k, task in enumerate(missing):
        if (cause := failed_before(task, finished)) is not None:
            finished.failed[task.name] = cause
            continue
        left = seconds_left(plan, missing[k:], finished)
        also = "" if left is None else f", about {duration(left)} left"
        watcher.note(f"task {k + 1} of {len(missing)}: {task.name}{also}")
        try:
            finished.records[task.name], finished.seconds[task.name] = plan.run(task, watcher)
        except SaeAuditError as error:
            finished.failed[task.name] = str(error)
            watcher.note(f"{task.name} failed: {error}")
    return finished


def seconds_left(plan: Plan, todo: Sequence[Task], finished: Finished) -> float | None:
    """Return what `todo` will take if each task takes as long as those of its kind did; None while one is unknown."""
    took: dict[str, list[float]] = {}
    for name, seconds in finished.seconds.items():
        took.setdefault(plan.tasks[name].work.__qualname__, []).append(seconds)
    kinds = [took.get(task.work.__qualname__) for task in todo]
    return sum((sum(kind) / len(kind) for kind in kinds if kind), 0.0) if all(kinds) else None


def failed_before(task: Task, finished: Finished) -> str | None:
    """Return why `task` cannot be tried, if one that it follows failed."""
    return next((f"{name} failed before it" for name in task.after if name in finished.failed), None)
