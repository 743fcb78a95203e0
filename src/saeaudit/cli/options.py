"""Options that several commands share, and the refusal to write over what is there."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from saeaudit.errors import ArtifactError, ConfigError

Out = Annotated[Path, typer.Option("--out", help="Directory for the results.")]
Organism = Annotated[Literal["sql", "phrase"], typer.Option("--organism", help="Which planted behaviour.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed of everything random.", show_default="0")]
Layers = Annotated[str | None, typer.Option("--layers", help="Blocks to read, such as 13,17.", show_default=False)]
Device = Annotated[
    str | None, typer.Option("--device", help="Where to compute: cpu, cuda or cuda:N.", show_default="cpu")
]
Config = Annotated[
    Path | None, typer.Option("--config", help="Settings in a .toml or .yaml file; flags win.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="One setting, name=value; repeat for more.", metavar="NAME=VALUE", show_default=False),
]


def require_new(out: Path) -> None:
    """Raise unless `out` is new or an empty directory, so that nothing of the user's is replaced.

    Raises:
        ArtifactError: it holds something (code `output-not-empty`).
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ArtifactError(
            f"{out} is not empty, and nothing is overwritten; choose another --out, or delete it",
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
