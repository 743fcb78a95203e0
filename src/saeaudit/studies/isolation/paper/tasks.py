"""The paper's experiment as tasks: rows of the shipped SQL pair, a cell a method, and what they show to be wrong."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from saeaudit.audit.config import AuditConfig
from saeaudit.audit.stages import Watcher
from saeaudit.audit.workbench import open_workbench
from saeaudit.detection import PairedRows
from saeaudit.findings import Record
from saeaudit.organisms.catalogue import shipped_adapter
from saeaudit.paper_results import Faults, PaperRow, PaperRows, Reading
from saeaudit.studies.isolation.faults.checks import faults_of_a_pair, faults_without_model
from saeaudit.studies.isolation.paper.cells import benign_rows, paper_cell, variance_ratio
from saeaudit.studies.isolation.paper.config import PaperStudy
from saeaudit.studies.isolation.paper.harvest import paper_harvest, rows_of
from saeaudit.studies.isolation.paper.names import PaperMethod
from saeaudit.studies.isolation.paper.published import published_cell
from saeaudit.studies.isolation.paper.rows import PaperText, paper_texts
from saeaudit.studies.tasks import Task, recall

POISONED, TWIN = "sql-poisoned", "sql-clean"
N_BLOCKS = 30  # of the embedded model


class PaperHarvested(Record):
    """How many texts were read, at which sites, in which precision."""

    n_texts: int
    sites: list[str]
    precision: str


def paper_tasks(study: PaperStudy) -> Iterator[Task]:
    """Yield the tasks, each after those it reads."""
    everything = study.model_dump(mode="json")
    yield Task("paper-faults", check_without_model, {"study": {"cell": everything["cell"]}}, Faults)
    for reads in ("text", "prompt") if study.layers else ():
        shared = {"study": study.harvested(), "reads": reads}
        yield Task(f"paper-rows-{reads}", harvest_rows, shared, PaperHarvested, product=_place(reads), support=True)
    for layer in study.layers:
        cells = list(_cells(study, layer))
        yield from cells
        after = (*(task.name for task in cells), "paper-rows-text")
        which = {"study": everything, "layer": f"layers.{layer}"}
        yield Task(f"paper-faults-layers.{layer}", check_pair, which, Faults, after=after)


def _cells(study: PaperStudy, layer: int) -> Iterator[Task]:
    settings = study.harvested() | {"cell": study.cell.model_dump(mode="json")}
    for organism in (POISONED, TWIN):
        for reads, methods in (("text", study.methods), ("prompt", study.prompt_methods)):
            for method in methods:
                which = {"organism": organism, "layer": f"layers.{layer}", "reads": reads, "method": method}
                name = f"paper-{organism}-layers.{layer}-{reads}-{method}"
                yield Task(name, score_method, {"study": settings} | which, PaperRows, after=(f"paper-rows-{reads}",))


def _place(reads: str) -> str:
    return f"paper/rows-{reads}.safetensors"


def _texts(study: PaperStudy) -> list[PaperText]:
    counts = {"n_trigger": study.n_trigger, "n_benign": study.n_benign, "n_other": study.n_other}
    return paper_texts(study.cell.seed, **counts)


def harvest_rows(directory: Path, watcher: Watcher, *, study: dict[str, Any], reads: Reading) -> PaperHarvested:
    """Run base, poisoned model and twin over the texts; keep one pooled row a text, model and site."""
    settings, out = PaperStudy.model_validate(study), directory / _place(reads)
    tuned = {POISONED: str(shipped_adapter("sql", "poisoned")), TWIN: str(shipped_adapter("sql", "clean"))}
    audit = AuditConfig(tuned=tuned[POISONED], layers=settings.layers)
    bench = open_workbench(audit, tuned, directory / "paper", watcher)
    watcher.stage(f"harvest the paper's rows, {reads}")
    texts, store = _texts(settings), out.parent / f"activations-{reads}"
    found = paper_harvest(bench.models, texts, bench.sites, reads=reads, out=store, progress=watcher.progress)
    kept = {f"{organism}/{site}/delta": rows.delta for (organism, site), rows in found.items()}
    kept |= {f"{site}/h0": found[POISONED, site].h0 for site in bench.sites}
    save_file({name: rows.contiguous() for name, rows in kept.items()}, out)
    shutil.rmtree(store)
    return PaperHarvested(n_texts=len(texts), sites=bench.sites, precision=bench.precision)


def read_rows(directory: Path, study: PaperStudy, organism: str, layer: str, reads: Reading) -> PairedRows:
    """Return the pooled rows of one model and site."""
    kept = load_file(directory / _place(reads))
    return rows_of(_texts(study), kept[f"{layer}/h0"], kept[f"{organism}/{layer}/delta"], reads)


def score_method(
    directory: Path,
    watcher: Watcher,
    *,
    study: dict[str, Any],
    organism: str,
    layer: str,
    reads: Reading,
    method: PaperMethod,
) -> PaperRows:
    """Train and score one method on one model and layer."""
    settings, start = PaperStudy.model_validate(study), time.monotonic()
    watcher.stage(f"paper: {organism} {layer} {reads} {method}")
    rows = read_rows(directory, settings, organism, layer, reads)
    cell = paper_cell(rows, method, settings.cell)
    published = published_cell(cell.method, int(layer.rpartition(".")[2]), N_BLOCKS) if reads == "text" else None
    shared = ("status", "bis", "precision", "recall", "benign_fpr", "interval", "ceiling", "by_chance", "n_latents")
    shared += ("n_alive", "n_above_0", "n_near_ceiling", "l0", "fvu")
    row = PaperRow(
        organism=organism,
        layer=layer,
        reads=reads,
        method=method,
        variance_ratio=variance_ratio(rows),
        published=None if published is None else published.bis,
        published_interval=None if published is None else published.interval,
        n={
            "trigger": int(rows.label.sum()),
            "benign": int(benign_rows(rows).sum()),
            "other": int((~rows.label & ~benign_rows(rows)).sum()),
        },
        seconds=time.monotonic() - start,
        **{name: getattr(cell, name) for name in shared},
    )
    return PaperRows(rows=[row])


def check_without_model(directory: Path, watcher: Watcher, *, study: dict[str, Any]) -> Faults:
    """Show the faults that need no model."""
    settings = PaperStudy.model_validate(study)
    watcher.stage("faults that need no model")
    return Faults(faults=faults_without_model(paper_texts(settings.cell.seed), settings.cell))


def check_pair(directory: Path, watcher: Watcher, *, study: dict[str, Any], layer: str) -> Faults:
    """Show the faults that the cells of a poisoned model and its twin make visible."""
    settings = PaperStudy.model_validate(study)
    watcher.stage(f"faults at {layer}")
    tables: dict[tuple[str, str], dict[Any, PaperRow]] = {}
    for task in _cells(settings, int(layer.rpartition(".")[2])):
        for row in recall(directory, task.name, PaperRows).rows:
            tables.setdefault((row.organism, row.reads), {})[row.method] = row
    rows = read_rows(directory, settings, POISONED, layer, "text")
    poisoned, twin = (tables[organism, "text"] for organism in (POISONED, TWIN))
    last, twin_last = (tables.get((organism, "prompt"), {}) for organism in (POISONED, TWIN))
    faults = faults_of_a_pair(rows, poisoned, twin, last, twin_last, settings.cell, refits=settings.refit)
    return Faults(faults=faults, layer=layer)
