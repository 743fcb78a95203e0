"""Lines and tables on the terminal; text of models and files is shown with its control characters made visible.

Of the processes that torchrun starts, the first alone prints results; a complaint of any other begins with its rank.
"""

import shlex
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saeaudit.distributed import launched_rank

# Width of tables in a file or pipe, where there is no terminal to ask.
PIPE_WIDTH = 140


def show(text: str, *, style: str = "") -> None:
    """Print text to stdout without wrapping or markup."""
    if launched_rank() == 0:
        _console().print(_safe(text, style), soft_wrap=True)


def complain(text: str) -> None:
    """Print text to stderr."""
    speaker = f"rank {launched_rank()}: " if launched_rank() else ""
    Console(stderr=True).print(_safe(speaker + text, ""), soft_wrap=True)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table; the first column is left-aligned, the others right-aligned."""
    table = Table(title=title or None, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_safe(cell, "") for cell in row))
    if launched_rank() == 0:
        _console().print(table)


def mark(passed: bool | None) -> str:
    """Return the word for a rule or check: pass, FAIL, or undecided."""
    return "undecided" if passed is None else "pass" if passed else "FAIL"


def command_line() -> str:
    """Return the command as it was typed, quoted for a shell."""
    return shlex.join(["saeaudit", *sys.argv[1:]])


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)


def _safe(text: str, style: str) -> Text:
    from saeaudit.report.text import visible

    return Text(visible(text), style=style)
