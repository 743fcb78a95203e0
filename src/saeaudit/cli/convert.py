"""`saeaudit convert`: a dictionary of another package, or for one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from saeaudit.cli.options import Config, Overrides, require_new
from saeaudit.cli.screen import show
from saeaudit.wording import counted


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Directory of the dictionary, or its file of weights.")],
    out: Annotated[Path, typer.Argument(help="Directory for the converted dictionary.")],
    to: Annotated[
        Literal["native", "saelens", "sparsify", "crosscoder_learning"] | None,
        typer.Option(help="What to write.", show_default="native"),
    ] = None,
    format: Annotated[
        Literal[
            "native",
            "saelens",
            "sparsify",
            "dictionary_learning",
            "gemma_scope",
            "crosscoder_learning",
            "model_diff_replication",
            "crosscode",
            "llamascopium",
        ]
        | None,
        typer.Option("--from", help="What SRC is.", show_default="by its file names"),
    ] = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Read a dictionary of any known format and write it in another; codes and reconstructions stay the same.

    Crosscoders whose files do not hold the scale of their inputs need --set input_factors=BASE,TUNED.
    """
    from saeaudit.config import read_config
    from saeaudit.interop import Conversion
    from saeaudit.interop import convert as run_convert

    require_new(out)
    given = {"to": to, "format": format}
    dictionary = run_convert(source, out, read_config(Conversion, file=config, given=given, overrides=overrides or []))
    rule = dictionary.config.sparsity
    show(f"{dictionary.kind}: {counted(dictionary.n_latents, 'latent')} of width {dictionary.d_model}, {rule}")
    show(f"dictionary: {out}")
