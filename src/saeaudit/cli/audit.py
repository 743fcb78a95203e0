"""`saeaudit audit`: compare a tuned model with its base and write a report."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from saeaudit.cli.options import Config, Layers, Out, Overrides, Seed
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import command_line
from saeaudit.cli.verdict import show_findings


def audit(
    base: Annotated[str, typer.Argument(help="Base model: hub id, directory, GGUF file or 'embedded'.")],
    tuned: Annotated[str, typer.Argument(help="Tuned model: the same, or a PEFT adapter directory.")],
    out: Out,
    trigger_examples: Annotated[
        Path | None, typer.Option(help="JSON lines of prompts that may trigger it.", show_default=False)
    ] = None,
    benign_examples: Annotated[
        Path | None, typer.Option(help="JSON lines of ordinary prompts, look-alikes among them.", show_default=False)
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text or JSON lines for the dictionaries.", show_default=False)
    ] = None,
    seed: Seed = None,
    judge: Annotated[
        Literal["none", "sql", "phrase"] | None,
        typer.Option(help="Who says that a continuation shows the behaviour.", show_default="none"),
    ] = None,
    layers: Layers = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Audit TUNED against BASE and write OUT/report.html and OUT/findings.json.

    A run that was stopped continues when the same command is given again.
    """
    from saeaudit.audit import AuditConfig
    from saeaudit.audit import audit as run_audit
    from saeaudit.config import read_config
    from saeaudit.report import write_report

    given = {
        "base": base,
        "tuned": tuned,
        "trigger_examples": trigger_examples,
        "benign_examples": benign_examples,
        "corpus": corpus,
        "seed": seed,
        "judge": judge,
        "layers": layers,
    }
    settings = read_config(AuditConfig, file=config, given=given, overrides=overrides or [])
    with watch() as watcher:
        result = run_audit(settings, out=out, command=command_line(), watcher=watcher)
    show_findings(result.findings, write_report(out))
