"""`saeaudit train`: train dictionaries on a store, one or many in one pass."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saeaudit.cli.options import Config, Device, Out, Overrides, require_new
from saeaudit.cli.progress import watch
from saeaudit.cli.screen import complain, show, show_table
from saeaudit.distributed import joined, launched_rank

if TYPE_CHECKING:
    from saeaudit.audit.one_dictionary import StoreTraining
    from saeaudit.audit.stages import Watcher
    from saeaudit.audit.train_store import Trained
    from saeaudit.errors import SaeAuditError
    from saeaudit.findings import DictionaryRow
    from saeaudit.training import Callback

COLUMNS = ["site", "kind", "latents", "k", "FVU (0 is perfect)", "L0", "dead", "rows", "seconds"]


def train(
    store: Annotated[Path, typer.Argument(help="Store written by saeaudit harvest.")],
    out: Out,
    site: Annotated[
        list[str] | None, typer.Option(help="Site in the store, such as layers.13.", show_default=False)
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="What the dictionary reads: base, difference, or both.",
            metavar="sae|diff|crosscoder",
            show_default="diff",
        ),
    ] = None,
    sparsity: Annotated[
        list[str] | None,
        typer.Option(
            help="The rule that chooses the active latents.",
            metavar="batchtopk|topk|matryoshka|relu|gated|jumprelu",
            show_default="batchtopk",
        ),
    ] = None,
    k: Annotated[list[int] | None, typer.Option(help="Mean active latents a token.", show_default="16")] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Seed of the start weights.", show_default="0")] = None,
    log: Annotated[
        Path | None,
        typer.Option(help="Directory for logs, a file NAME.jsonl for each dictionary.", show_default=False),
    ] = None,
    device: Device = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Train a dictionary on the rows of one site, calibrate its threshold and judge its fit on held-out rows.

    Site, kind, sparsity, k and seed may be repeated: every combination is trained, all in one pass over the store, each
    into a directory of its own in OUT. One that fails does not disturb the others. What was stopped continues when the
    same command is given again. Started by torchrun, several processes share the work.
    """
    from saeaudit.audit.device import own_device
    from saeaudit.audit.one_dictionary import StoreTraining
    from saeaudit.audit.train_store import train_many_from_store
    from saeaudit.config import read_config
    from saeaudit.training import JsonLines

    options = {"site": site, "kind": kind, "sparsity": sparsity, "k": k, "seed": seed}
    sweep = {
        name: read_config(StoreTraining, file=config, given=given | {"device": device}, overrides=overrides or [])
        for name, given in combinations(options).items()
    }
    alone, parent = "" in sweep, out
    if alone:
        require_new(out)
        sweep, parent = {out.name: sweep[""]}, out.parent
    place = own_device(next(iter(sweep.values())).device)
    with joined(place) as ranks, _shown() as (watcher, drawn):
        logged = {name: [JsonLines(log / f"{name}.jsonl")] if log is not None else [] for name in sweep}
        callbacks = {name: [*drawn(name), *logged[name]] for name in sweep}
        trained = train_many_from_store(store, sweep, out=parent, watcher=watcher, callbacks=callbacks, ranks=ranks)
    if alone:
        _show_one(trained, out)
    else:
        _show_sweep(sweep, trained, out)


def _show_one(trained: "Trained", out: Path) -> None:
    for error in trained.failed.values():
        raise error
    show_table(COLUMNS, [_cells(row) for row in trained.done.values()])
    show(f"dictionary: {out}")


def _show_sweep(sweep: dict[str, "StoreTraining"], trained: "Trained", out: Path) -> None:
    rows = [
        [name, *(_cells(trained.done[name]) if name in trained.done else _failed(settings, trained.failed[name]))]
        for name, settings in sweep.items()
    ]
    show_table(["name", *COLUMNS], rows)
    show(f"dictionaries: {out}")
    for name, error in trained.failed.items():
        complain(f"error: {name}: {error}")
    if trained.failed:
        raise typer.Exit(1)


def combinations(options: dict[str, Sequence[Any] | None]) -> dict[str, dict[str, Any]]:
    """Return every combination of the values of options, named by those that have several.

    >>> combinations({"site": ["layers.9"], "kind": None, "k": [16, 32]})
    {'k16': {'site': 'layers.9', 'kind': None, 'k': 16}, 'k32': {'site': 'layers.9', 'kind': None, 'k': 32}}
    """
    values = {option: list(dict.fromkeys(given or [None])) for option, given in options.items()}
    several = [option for option, found in values.items() if len(found) > 1]
    found = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    return {"-".join(_label(option, given[option]) for option in several): given for given in found}


def _label(option: str, value: Any) -> str:
    return f"{option}{value}" if option in ("k", "seed") else str(value)


@contextmanager
def _shown() -> Iterator[tuple["Watcher", Callable[[str], list["Callback"]]]]:
    """Yield what shows progress: a line for each run on a terminal, and stages anywhere else."""
    from saeaudit.audit.stages import Silent
    from saeaudit.training import RichProgress, progress_bars

    if launched_rank() > 0 or not sys.stderr.isatty():
        with watch() as watcher:
            yield watcher, lambda name: []
        return
    with progress_bars() as bars:
        yield Silent(), lambda name: [RichProgress(name, bars)]


def _cells(row: "DictionaryRow") -> list[str]:
    return [
        row.site,
        row.kind,
        str(row.n_latents),
        str(row.k) if row.k else "-",
        f"{row.fvu:.3f}",
        f"{row.l0:.1f}",
        f"{row.dead_share:.1%}",
        str(row.n_tokens),
        f"{row.seconds:.0f}",
    ]


def _failed(settings: "StoreTraining", error: "SaeAuditError") -> list[str]:
    return [settings.site, settings.kind, "-", "-", f"failed: {error.code}", "-", "-", "-", "-"]
