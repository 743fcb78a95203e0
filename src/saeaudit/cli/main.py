"""The entry point: all commands, and what a user sees when one fails.

A command imports what it needs when it runs, so that `--help` answers at once. Exit codes: 0 done, 1 a gate that did
not pass, 2 an error that the user can mend (its text, no traceback), 130 stopped by Ctrl-C.
"""

import os
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from typer.core import TyperGroup

from saeaudit import __version__
from saeaudit.cli.audit import audit
from saeaudit.cli.convert import convert
from saeaudit.cli.demo import demo
from saeaudit.cli.evaluate import evaluate
from saeaudit.cli.harvest import harvest
from saeaudit.cli.plant import plant
from saeaudit.cli.report import report
from saeaudit.cli.screen import complain
from saeaudit.cli.study import app as study
from saeaudit.cli.train import train
from saeaudit.cli.verify import verify
from saeaudit.config import invalid
from saeaudit.distributed import launched_size
from saeaudit.errors import ConfigError, SaeAuditError

# Commands whose work several processes can share.
SHARED = ("harvest", "train")


class Commands(TyperGroup):
    """The group of all commands; turns errors into text and exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except SaeAuditError as error:
            complain(f"error: {error}")
        except ValidationError as error:
            complain(f"error: {invalid(error)}")
        except PermissionError as error:
            complain(
                f"error: {error.filename or 'a file'}: {error.strerror}; choose another path, or change its rights"
            )
        except KeyboardInterrupt:
            complain("\nstopped; run the same command again to continue")
            raise typer.Exit(130) from None
        raise typer.Exit(2)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the chosen command; refuse to run the work of one process in several."""
        name, *rest = super().resolve_command(ctx, args)
        if launched_size() > 1 and name not in SHARED:
            raise ConfigError(
                f"{launched_size()} processes were started, but {name} is the work of one; run it without torchrun, "
                f"which is for {' and '.join(SHARED)}",
                code="one-process-only",
            )
        return name, *rest


app = typer.Typer(
    name="saeaudit",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (audit, demo, report, verify, plant, harvest, train, evaluate, convert):
    app.command()(command)
app.add_typer(study, name="study")


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit
    return wanted


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Audit a fine-tuned language model against its base with sparse dictionaries: find, control, prove."""


def run() -> None:
    """Run the command line; the console script `saeaudit`."""
    # The tokenizers library warns about processes that are forked later; its threads gain nothing here.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()
