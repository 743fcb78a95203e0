"""From `IsolationResults` to what the templates print; nothing is computed here but medians, extremes and orders."""

import json
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, NamedTuple

from saeaudit.isolation_results import CONDITIONAL, AlarmRow, Cell, IsolationResults, Role
from saeaudit.report import isolation_figures as figures
from saeaudit.report.figure_style import figure_data
from saeaudit.report.isolation_cells import Place, caveat, method_order, places
from saeaudit.report.isolation_paper import paper_tables
from saeaudit.report.isolation_questions import answers, contests
from saeaudit.wording import counted


class HeatRow(NamedTuple):
    """A method at each layer of one organism, with the clean twin's cell beside it; None where a task is missing."""

    method: str
    role: Role
    labels: str
    pairs: list[tuple[Cell | None, Cell | None]]


class Organism(NamedTuple):
    """An organism with a planted behaviour: the name of its chart, its layers, and its methods layer by layer."""

    name: str
    twin: str | None
    chart: str
    layers: list[str]
    rows: list[HeatRow]


class ClassRow(NamedTuple):
    """A method's highest false-positive rate, where it was, and its highest rate in every benign class."""

    method: str
    role: Role
    worst: Cell
    rates: list[float | None]


class FitRow(NamedTuple):
    """A dictionary over all organisms and layers; spans are (lowest, highest)."""

    method: str
    n_cells: int
    n_unmatched: int
    n_dead: int
    wanted: float
    l0: tuple[float, float]
    fvu: tuple[float, float]
    alive: tuple[float, float]
    trainings: tuple[int, int]


class CostRow(NamedTuple):
    """What a method takes (medians over cells; the highest memory), and what it reaches with a planted behaviour."""

    method: str
    role: Role
    train_seconds: float
    score_seconds: float
    tokens: int | None
    peak_bytes: int
    tpr: float | None
    auroc: float | None


def build_isolation_view(results: IsolationResults) -> dict[str, Any]:
    """Return the names that the templates use."""
    cells, where, methods = results.cells, places(results.cells), method_order(results.cells)
    failed = {model.organism for model in results.models if model.passed is False}
    organisms = [organism(k, name, where, methods) for k, name in enumerate(dict.fromkeys(p.organism for p in where))]
    return {
        "r": results,
        "caveat": caveat,
        "methods": methods,
        "places": where,
        "organisms": organisms,
        "answers": answers([cell for cell in cells if cell.organism not in failed]) if cells else [],
        "contests": contests(where),
        "not_planted": sorted(failed),
        "model_classes": sorted({name for model in results.models for name in model.n_bad}, key=_trigger_first),
        "flags": [flagged(results.alarms, without=True), flagged(results.alarms, without=False)],
        "class_names": class_names(cells),
        "class_rows": class_rows(where, methods, class_names(cells)),
        "fits": fit_rows(cells, methods),
        "paper": paper_tables(results.paper),
        "costs": cost_rows(cells, methods),
        "unsound": [cell for cell in cells if caveat(cell)],
        "extent": [
            counted(len({cell.organism for cell in cells}), "organism"),
            counted(len({cell.layer for cell in cells}), "layer"),
            counted(len(methods), "method"),
            counted(len(cells), "cell"),
        ],
        "config": json.dumps(results.config, indent=2, ensure_ascii=False),
        "layer_width": figures.LAYER_WIDTH,
        "charts": charts(where, organisms, methods, cells),
    }


def charts(
    where: Sequence[Place], organisms: Sequence[Organism], methods: Sequence[str], cells: Sequence[Cell]
) -> dict[str, dict[str, Any]]:
    """Return the charts for which there are cells, by name."""
    drawn = {}
    for one in organisms:
        own = [place for place in where if place.organism == one.name]
        drawn[one.chart] = figure_data(figures.headline_figure(own, [row.method for row in one.rows]))
    if where:
        drawn["ceiling"] = figure_data(figures.ceiling_figure(where, _present(where, methods)))
        drawn["cost"] = figure_data(figures.cost_figure(cells))
    return drawn


def organism(k: int, name: str, where: Sequence[Place], methods: Sequence[str]) -> Organism:
    """Set the methods of one organism against its layers."""
    own = [place for place in where if place.organism == name]
    rows = []
    for method in _present(own, methods):
        pairs = [(place.cells.get(method), place.twin_cells.get(method)) for place in own]
        some = next(cell for cell, _ in pairs if cell is not None)
        rows.append(HeatRow(method, some.role, some.labels, pairs))
    return Organism(name, own[0].twin, f"organism-{k}", [place.layer for place in own], rows)


def class_names(cells: Iterable[Cell]) -> list[str]:
    """Return the benign classes of all cells."""
    return sorted({name for cell in cells for name in cell.class_fpr})


def class_rows(where: Sequence[Place], methods: Sequence[str], classes: Sequence[str]) -> list[ClassRow]:
    """Return every method's highest rates over the organisms with a planted behaviour."""
    found = []
    for method in _present(where, methods):
        own = [place.cells[method] for place in where if method in place.cells]
        worst = max(own, key=lambda cell: cell.worst_class_fpr)
        rates = [max((c.class_fpr[name] for c in own if name in c.class_fpr), default=None) for name in classes]
        found.append(ClassRow(method, worst.role, worst, rates))
    return found


def fit_rows(cells: Sequence[Cell], methods: Sequence[str]) -> list[FitRow]:
    """Return the dictionaries, each over all its cells."""
    found = []
    for method in methods:
        fits = [(cell.fit, cell.status) for cell in cells if cell.method == method and cell.fit is not None]
        if not fits:
            continue
        trainings = [fit.n_trainings for fit, _ in fits]
        found.append(
            FitRow(
                method=method,
                n_cells=len(fits),
                n_unmatched=sum(status == "sparsity-unmatched" for _, status in fits),
                n_dead=sum(status == "dead" for _, status in fits),
                wanted=fits[0][0].l0_wanted,
                l0=_span(fit.l0 for fit, _ in fits),
                fvu=_span(fit.fvu for fit, _ in fits),
                alive=_span(fit.alive for fit, _ in fits),
                trainings=(min(trainings), max(trainings)),
            )
        )
    return found


def cost_rows(cells: Sequence[Cell], methods: Sequence[str]) -> list[CostRow]:
    """Return what every method takes and reaches."""
    found = []
    for method in methods:
        own = [cell for cell in cells if cell.method == method]
        planted = [cell for cell in own if cell.planted and cell.status == "ok"]
        tokens = [cell.fit.n_tokens * cell.fit.n_trainings for cell in own if cell.fit is not None]
        found.append(
            CostRow(
                method=method,
                role=own[0].role,
                train_seconds=median(cell.cost.train_seconds for cell in own),
                score_seconds=median(cell.cost.score_seconds for cell in own),
                tokens=round(median(tokens)) if tokens else None,
                peak_bytes=max(cell.cost.peak_bytes for cell in own),
                tpr=median(cell.tpr_at_1pct_fpr for cell in planted) if planted else None,
                auroc=median(cell.auroc for cell in planted) if planted else None,
            )
        )
    return found


def flagged(alarms: Sequence[AlarmRow], *, without: bool) -> tuple[int, int]:
    """Return how many audits raised a flag, and how many there were, on models without or with the behaviour."""
    verdicts = [alarm.verdict for alarm in alarms if (alarm.variant not in CONDITIONAL) == without]
    return verdicts.count("flag"), len(verdicts)


def _present(where: Sequence[Place], methods: Sequence[str]) -> list[str]:
    there = {method for place in where for method in place.cells}
    return [method for method in methods if method in there]


def _trigger_first(name: str) -> tuple[bool, str]:
    return name != "T", name


def _span(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)
