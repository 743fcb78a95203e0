"""Tasks without models, in a module that worker processes can import."""

import os
import signal
from pathlib import Path

from saeaudit.errors import InputError
from saeaudit.findings import Record
from saeaudit.studies.tasks import Plan, Task


class Number(Record):
    value: int
    threads: str = ""


def write(directory: Path, watcher, *, value: int) -> Number:
    """Leave a product; every call adds a line to a log beside it."""
    with (directory / "calls").open("a") as log:
        log.write(f"write {value}\n")
    (directory / f"product-{value}").write_text(str(value))
    return Number(value=value)


def double(directory: Path, watcher, *, value: int) -> Number:
    """Read the product."""
    with (directory / "calls").open("a") as log:
        log.write(f"double {value}\n")
    return Number(value=2 * int((directory / f"product-{value}").read_text()), threads=os.environ["OMP_NUM_THREADS"])


def refuse(directory: Path, watcher) -> Number:
    """Fail as the user's data would."""
    raise InputError("there is nothing to read; give more", code="nothing")


def die(directory: Path, watcher, *, marker: str) -> Number:
    """Kill the process the first time, in the middle of the work."""
    if not (directory / marker).exists():
        (directory / marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return Number(value=7)


def break_down(directory: Path, watcher) -> Number:
    """Fail by a fault of the program."""
    raise ZeroDivisionError("a fault")


def source(value: int = 1) -> Task:
    return Task("write", write, {"value": value}, Number, product=f"product-{value}", support=True)


def follower(value: int = 1, name: str = "double", after: str = "write") -> Task:
    return Task(name, double, {"value": value}, Number, after=(after,))


def mixed(directory: Path) -> Plan:
    """A support task with two followers; a failing one with a follower of its own and a follower of that."""
    return Plan(
        directory,
        [
            source(3),
            follower(3),
            Task("refuse", refuse, {}, Number),
            Task("after-refuse", double, {"value": 3}, Number, after=("refuse", "write")),
            Task("after-that", double, {"value": 3}, Number, after=("after-refuse",)),
            follower(3, "double-again"),
        ],
    )


def calls(directory: Path) -> list[str]:
    log = directory / "calls"
    return log.read_text().split("\n")[:-1] if log.exists() else []
