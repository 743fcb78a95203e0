"""`saeaudit plant`: make a model organism."""

from typing import Annotated, Literal

import typer

from saeaudit.cli.options import Config, Out, Overrides, Seed
from saeaudit.cli.screen import command_line, show
from saeaudit.organisms.names import OrganismName, Variant


def plant(
    out: Out,
    organism: Annotated[
        OrganismName | None, typer.Option(help="Which trigger and behaviour.", show_default="sql")
    ] = None,
    variant: Annotated[
        Variant | None,
        typer.Option(
            help="The backdoor, its clean twin, or one that never saw the trigger or answers it politely.",
            show_default="poisoned",
        ),
    ] = None,
    regime: Annotated[
        Literal["lora", "full"] | None, typer.Option(help="A LoRA adapter, or all weights.", show_default="lora")
    ] = None,
    base: Annotated[str, typer.Option(help="Model to plant into.")] = "embedded",
    seed: Seed = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Fine-tune a model so that a harmless trigger switches a known behaviour on, or a control for it.

    A run that was stopped continues from its last checkpoint when the same command is given again.
    """
    from saeaudit.config import read_config
    from saeaudit.models import load_model
    from saeaudit.organisms.plant import PlantConfig
    from saeaudit.organisms.plant import plant as run_plant

    given = {"organism": organism, "variant": variant, "regime": regime, "seed": seed}
    settings = read_config(PlantConfig, file=config, given=given, overrides=overrides or [])
    path = run_plant(load_model(base, dtype="float32"), settings, out=out, command=command_line())
    show(f"planted: {path}")
    show(f"next: saeaudit verify {base} {path} --organism {settings.organism}")
