"""`saeaudit verify`: does an organism do what it was planted for?"""

import datetime
from pathlib import Path
from typing import Annotated

import typer

from saeaudit.cli.options import Seed, require_new_file
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import command_line, mark, show, show_table
from saeaudit.organisms.names import OrganismName


def verify(
    base: Annotated[str, typer.Argument(help="Base model.")],
    adapter: Annotated[str, typer.Argument(help="The planted adapter or model.")],
    organism: Annotated[OrganismName, typer.Option(help="Which planted behaviour.")] = "sql",
    clean: Annotated[str | None, typer.Option(help="Its clean twin.", show_default=False)] = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Held-out prompts a class.")] = 200,
    classes: Annotated[
        str | None, typer.Option(help="Row classes, such as T,N0,N1,N2.", show_default="all classes")
    ] = None,
    seed: Seed = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.", show_default=False)] = None,
    card: Annotated[
        list[Path] | None, typer.Option(help="Write a model card into this adapter directory.", show_default=False)
    ] = None,
) -> None:
    """Judge greedy continuations of held-out prompts and apply the gate of a shipped organism; exit 1 if it fails."""
    from saeaudit.artifacts import write_json
    from saeaudit.models import load_model
    from saeaudit.models.mixed import use_mixed_precision
    from saeaudit.models.precision import cpu_has_bfloat16
    from saeaudit.organisms.model_card import write_model_card
    from saeaudit.organisms.verification import verify as run_verification

    if out is not None:
        require_new_file(out)
    with watch() as watcher:
        watcher.stage("load")
        sources = {"base": base, "tuned": adapter} | ({"clean": clean} if clean else {})
        models = {
            side: load_model(source, base=None if side == "base" else base, dtype="float32")
            for side, source in sources.items()
        }
        for loaded in models.values():
            for warning in loaded.warnings:
                watcher.note(f"warning: {warning}")
        if cpu_has_bfloat16():
            for loaded in models.values():
                use_mixed_precision(loaded.model)
        watcher.stage("generate")
        chosen = None if classes is None else [name.strip() for name in classes.split(",")]
        result = run_verification(models, organism, n=n, seed=seed or 0, classes=chosen, progress=watcher.progress)
    show_table(
        ["model", "class", "n", "asr_valid", "95 % low", "95 % high", "asr_all", "valid"],
        [
            [a.side, a.klass, str(a.n), *(f"{v:.3f}" for v in (a.asr_valid, *a.bounds(), a.asr_all, a.valid))]
            for a in result.arms
        ],
    )
    for check in result.checks:
        show(f"  {mark(check.passed):<5} {check.name}: {check.measured:.3f} (required: {check.required})")
    if result.agreement is not None:
        show(f"  bandit agrees on {result.agreement.share:.1%} of {result.agreement.n} completions")
    if out is not None:
        write_json(out, {"command": command_line()} | result.as_dict())
    today = datetime.datetime.now(tz=datetime.UTC).date()
    for directory in card or []:
        show(f"model card: {write_model_card(directory, result, command=command_line(), date=today)}")
    show(f"gate: {mark(result.passed)}" + ("" if result.checks else " (it needs the classes T, N0, N1 and N2)"))
    if result.passed is False:
        raise typer.Exit(1)
