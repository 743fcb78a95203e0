"""`saeaudit report`: write report.html again from findings.json."""

from pathlib import Path
from typing import Annotated

import typer

from saeaudit.cli.screen import show


def report(directory: Annotated[Path, typer.Argument(help="Directory of an audit, with findings.json.")]) -> None:
    """Write DIRECTORY/report.html again from its findings.json."""
    from saeaudit.report import write_report

    show(f"report: {write_report(directory)}")
