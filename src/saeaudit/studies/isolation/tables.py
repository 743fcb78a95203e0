"""CSV tables of an isolation study, beside `results.json`: every cell, and one table a question (study, section 7).

An interval is two columns, NAME_low and NAME_high; a number that does not exist is an empty field.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saeaudit.artifacts import write_bytes
from saeaudit.isolation_results import Cell, Fit, IsolationResults

Row = dict[str, Any]
WHO = ("organism", "layer", "method", "role", "labels", "status")


def write_tables(results: IsolationResults, directory: Path) -> list[Path]:
    """Write the tables into `directory`, each atomically; return their paths.

    `cells.csv`: a row for every cell. `headline.csv`: organisms with a planted behaviour beside twin and null, without
    dictionaries that are dead or not as sparse as was asked. `classes.csv`: false positives by benign class.
    `dictionaries.csv`: fit and accuracy of every dictionary at every layer.

    Raises:
        ResourceError: the directory cannot be written.
    """
    tables = {
        "cells": [cell_row(cell) for cell in results.cells],
        "headline": headline_rows(results.cells),
        "classes": class_rows(results.cells),
        "dictionaries": dictionary_rows(results.cells),
    }
    paths = []
    for name, rows in tables.items():
        paths.append(directory / f"{name}.csv")
        write_bytes(paths[-1], _csv(rows).encode())
    return paths


def cell_row(cell: Cell) -> Row:
    """Return everything that a cell holds, flat; the rates by class are in another table."""
    plain = cell.model_dump(exclude={"interval", "n", "class_fpr", "fit", "cost"})
    fit = cell.fit.model_dump() if cell.fit is not None else dict.fromkeys(Fit.model_fields)
    return (
        plain
        | {"role": cell.role}
        | _ends(cell.interval)
        | _prefixed("n", cell.n)
        | _prefixed("fit", fit)
        | cell.cost.model_dump()
    )


def headline_rows(cells: Sequence[Cell]) -> list[Row]:
    """Return what the study is about: true positives beside null and clean twin, and the worst class."""
    at = {(cell.organism, cell.layer, cell.method): cell for cell in cells}
    rows = []
    for cell in cells:
        if not cell.planted or cell.status != "ok":
            continue
        twin = at.get((cell.twin or "", cell.layer, cell.method))
        shown = {name: cell.interval[name] for name in ("tpr_at_1pct_fpr", "bis_star", "worst_class_fpr")}
        rows.append(
            _who(cell)
            | {
                "tpr_at_1pct_fpr": cell.tpr_at_1pct_fpr,
                "bis_star": cell.bis_star,
                "worst_class": cell.worst_class,
                "worst_class_fpr": cell.worst_class_fpr,
                "null": cell.random_basis_null,
                "gap_to_null": cell.tpr_at_1pct_fpr - cell.random_basis_null,
                "null_p": cell.random_basis_p,
                "twin_tpr_at_1pct_fpr": twin.tpr_at_1pct_fpr if twin else None,
            }
            | _ends(shown)
        )
    return rows


def class_rows(cells: Sequence[Cell]) -> list[Row]:
    """Return the false-positive rate of every cell in every benign class."""
    return [_who(cell) | {"class": name, "fpr": fpr} for cell in cells for name, fpr in cell.class_fpr.items()]


def dictionary_rows(cells: Sequence[Cell]) -> list[Row]:
    """Return the dictionaries with their fit, those that may not be compared included and marked by their status."""
    return [
        _who(cell) | cell.fit.model_dump() | {"auroc": cell.auroc, "tpr_at_1pct_fpr": cell.tpr_at_1pct_fpr}
        for cell in cells
        if cell.fit is not None
    ]


def _who(cell: Cell) -> Row:
    return {name: getattr(cell, name) for name in WHO}


def _ends(intervals: Mapping[str, tuple[float, float]]) -> Row:
    return {f"{name}_{end}": pair[k] for name, pair in intervals.items() for k, end in enumerate(("low", "high"))}


def _prefixed(prefix: str, values: Mapping[str, Any]) -> Row:
    return {f"{prefix}_{name}": value for name, value in values.items()}


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
