"""Run the command line in this process: what it printed, and its exit code."""

import sys
from typing import NamedTuple

import pytest


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def saeaudit(monkeypatch, capsys):
    """`saeaudit("audit", ...)` returns `Done(code, out, err)`."""
    from saeaudit.cli.main import run

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["saeaudit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run()
        printed = capsys.readouterr()
        return Done(stop.value.code or 0, printed.out, printed.err)

    return call
