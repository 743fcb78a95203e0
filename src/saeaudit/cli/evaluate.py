"""`saeaudit evaluate`: judge a trained dictionary."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saeaudit.cli.options import Config, Device, Overrides, Seed, require_new_file
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import command_line, show, show_table
from saeaudit.wording import counted

if TYPE_CHECKING:
    from saeaudit.audit.evaluate import Evaluation

SCHEMA = 1


def evaluate(
    dictionary: Annotated[Path, typer.Argument(help="Directory written by saeaudit train or audit.")],
    store: Annotated[Path, typer.Option(help="Store written by saeaudit harvest.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file for the results.")],
    base: Annotated[
        str | None, typer.Option(help="Base model, to put the reconstruction into it.", show_default=False)
    ] = None,
    tuned: Annotated[
        str | None, typer.Option(help="Tuned model or PEFT adapter, the same.", show_default=False)
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Text for that: text, or JSON lines with text.", show_default=False)
    ] = None,
    device: Device = None,
    seed: Seed = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Judge a dictionary on rows that it was not trained on: fit, sparsity, exclusivity.

    With models and a corpus, also what the models say when the reconstruction takes the place of their activations.
    """
    from saeaudit.artifacts import write_json
    from saeaudit.audit.evaluate import StoreEvaluation, evaluate_on_store
    from saeaudit.config import read_config

    require_new_file(out)
    given = {"base": base, "tuned": tuned, "corpus": corpus, "device": device, "seed": seed}
    settings = read_config(StoreEvaluation, file=config, given=given, overrides=overrides or [])
    with watch() as watcher:
        found = evaluate_on_store(dictionary, store, settings, watcher=watcher)
    run = {"schema": SCHEMA, "command": command_line(), "settings": settings.model_dump(mode="json")}
    write_json(out, run | found.as_dict())
    _show(found)
    show("95 % intervals from 8 groups on; – is not defined, docs/metrics.md says when")
    show(f"results: {out}")


def _show(found: "Evaluation") -> None:
    from saeaudit.metrics import ExclusivityReport

    report = found.dictionary
    show(f"{found.kind} at {found.site}: {counted(found.n_rows, 'row')}, groups of documents: {found.n_groups}")
    _numbers("Reconstruction", {name: vars(fit) for name, fit in report.reconstruction.items()})
    code = report.code
    facts = {
        "L0": _cell(code.l0),
        "mean activation": _cell(code.activation),
        f"dead (silent in {counted(code.n_rows, 'row')})": _cell(code.dead_share),
        "largest decoder cosine, median": _cell(float(report.largest_cosine.nanmedian())),
    }
    if bool(code.template_share.isfinite().any()):
        facts["latents that fire mostly on the template"] = str(int((code.template_share > 1 / 2).sum()))
    if isinstance(report.exclusivity, ExclusivityReport):
        bins = report.exclusivity.bins
        counts = f"{bins.base_only}, {bins.shared}, {bins.tuned_only} of {bins.n}"
        facts["base only, shared, tuned only by decoder norm"] = counts
    show_table(["Code", ""], facts.items())
    if report.exclusivity is not None:
        rows = [asdict(row) for row in report.exclusivity.table]
        show_table(["Latent scaling (medians)", *list(rows[0])[1:]], ([_cell(v) for v in row.values()] for row in rows))
    if found.splice:
        _numbers("Splice", {side: vars(splice) for side, splice in found.splice.items()})


def _numbers(title: str, columns: Mapping[str, Mapping[str, Any]]) -> None:
    """Print estimates, one line a name and one column a side."""
    first, *_ = columns.values()
    show_table([title, *columns], ([name, *(_cell(c[name]) for c in columns.values())] for name in first))


def _cell(value: Any) -> str:
    """Return a text, a count, a number, or an estimate with its interval; – where one is not defined."""
    from saeaudit.metrics import Estimate
    from saeaudit.report.numbers import MISSING, interval, number

    if isinstance(value, Estimate):
        ends = value.interval
        shown = f" {interval(ends)}" if ends.low == ends.low else ""
        return f"{_cell(value.value)}{shown}"
    if isinstance(value, float):
        return number(value) if value == value else MISSING
    return str(value)
