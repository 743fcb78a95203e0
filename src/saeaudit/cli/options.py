"""Options that several commands share, and the refusal to write over what is there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from saeaudit.artifacts import contents, make_directory
from saeaudit.errors import ArtifactError, ConfigError

Out = Annotated[Path, typer.Option("--out", help="Directory for the results.")]
Organism = Annotated[Literal["sql", "phrase"], typer.Option("--organism", help="Which planted behaviour.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.", show_default="0")]
Layers = Annotated[str | None, typer.Option("--layers", help="Blocks to read, such as 13,17.", show_default=False)]
Device = Annotated[
    str | None, typer.Option("--device", help="Where to compute: cpu, cuda or cuda:N.", show_default="cpu")
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="Settings in a .toml or .yaml file; flags and --set win.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, name=value; repeat for more.", metavar="NAME=VALUE", show_default=False),
]


def require_new(out: Path, *, continues: str | None = None) -> None:
    """Raise unless the directory `out` is new or empty, so that nothing of the user's is replaced.

    `continues`: a file that shows that the directory is the command's own; it may go on there.

    Raises:
        ArtifactError: it holds something else (code `output-not-empty`).
        ResourceError: it is a file, or cannot be read (code `not-writable`).
    """
    names = contents(out)
    if names and continues not in names:
        raise ArtifactError(
            f"{out} is not empty, and nothing is overwritten; choose another --out, or delete it",
            code="output-not-empty",
        )


def require_new_file(out: Path) -> None:
    """Make the directory of the file `out`, before the work that it is for begins.

    Raises:
        ArtifactError: there is something of that name (code `output-not-empty`).
        ResourceError: the directory cannot be made (code `not-writable`).
    """
    make_directory(out.parent)
    if out.exists():
        raise ArtifactError(
            f"{out} is there already, and nothing is overwritten; choose another --out, or delete it",
            code="output-not-empty",
        )


def parse_layers(text: str) -> list[str]:
    """Return site names for a list of block numbers such as "13,17".

    Raises:
        ConfigError: not a comma-separated list of block numbers (code `layers-invalid`).
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--layers {text!r} should be block numbers such as 13,17", code="layers-invalid")
    return [f"layers.{int(part)}" for part in dict.fromkeys(parts)]
