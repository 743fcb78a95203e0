"""The watchers: a bar on a terminal, lines elsewhere; both are what the audit asks for."""

import io
import sys

import pytest

from saeaudit.audit import Watcher
from saeaudit.cli.progress import BarWatcher, PlainWatcher, watch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drive(watcher: Watcher) -> None:
    watcher.stage("harvest [a/b]")
    for i in range(11):
        watcher.progress(i, 10)
    watcher.note("note [bold]")
    watcher.skipped("choice", "done before")
    watcher.stage("detect")


def test_the_stream_decides(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(watch(), PlainWatcher)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(watch(), BarWatcher)


def test_bars_show_stages_notes_and_time(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with watch() as watcher:
        drive(watcher)
        # The loaders replace stderr for a moment; the bars must not follow it.
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        watcher.note("while stderr is replaced")
    text = stream.getvalue()
    for expected in ("harvest [a/b]", "note [bold]", "choice: done before", "detect", "left", "while stderr is"):
        assert expected in text


def test_lines_do_not_grow_with_the_work(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with watch() as watcher:
        drive(watcher)
    lines = [line.split(" s  ", 1)[1] for line in stream.getvalue().splitlines()]
    assert lines == ["harvest [a/b]", "note [bold]", "choice: done before", "detect", "done"]


def test_an_interrupted_run_is_not_called_done(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt), watch() as watcher:
        watcher.stage("detect")
        raise KeyboardInterrupt
    assert "done" not in stream.getvalue()
    assert stream.getvalue().splitlines()[-1].endswith("stopped")


def test_the_cursor_comes_back_after_an_error(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="x"), watch() as watcher:
        watcher.stage("detect")
        raise ValueError("x")
    hidden, shown = stream.getvalue().rfind("\x1b[?25l"), stream.getvalue().rfind("\x1b[?25h")
    assert -1 < hidden < shown
