"""The paper's experiment as tables: a row a method, a column a layer, poisoned model and twin in one place."""

from collections.abc import Sequence
from typing import NamedTuple

from saeaudit.paper_results import PaperRow, Reading

Span = tuple[float, float]


class PaperLine(NamedTuple):
    """A method over the layers; spans are lowest to highest, of the poisoned model."""

    method: str
    pairs: list[tuple[PaperRow | None, PaperRow | None]]
    chance: Span
    ceiling: Span
    published: Span | None
    alive: str
    l0: Span
    fvu: Span | None


class PaperTable(NamedTuple):
    """All methods by one reading of the texts."""

    reads: Reading
    layers: list[str]
    rows: list[PaperLine]


def paper_tables(rows: Sequence[PaperRow], *, poisoned: str = "sql-poisoned") -> list[PaperTable]:
    """Return a table for each reading, methods and layers in the order in which they came."""
    tables = []
    readings: list[Reading] = ["text", "prompt"]
    for reads in readings:
        own = [row for row in rows if row.reads == reads]
        layers = list(dict.fromkeys(row.layer for row in own))
        found = {(row.organism == poisoned, row.layer, row.method): row for row in own}
        if not own:
            continue
        lines = []
        for method in dict.fromkeys(row.method for row in own):
            pairs = [(found.get((True, layer, method)), found.get((False, layer, method))) for layer in layers]
            if some := [one for one, _ in pairs if one is not None]:
                lines.append(_line(method, pairs, some))
        tables.append(PaperTable(reads, layers, lines))
    return tables


def _line(method: str, pairs: list[tuple[PaperRow | None, PaperRow | None]], some: Sequence[PaperRow]) -> PaperLine:
    alive = sorted({row.n_alive for row in some})
    shown = f"{alive[0]:,}" if len(alive) == 1 else f"{alive[0]:,} to {alive[-1]:,}"
    return PaperLine(
        method=method,
        pairs=pairs,
        chance=_span([row.by_chance for row in some]),
        ceiling=_span([row.ceiling for row in some]),
        published=_span_or_none([row.published for row in some]),
        alive=f"{shown} of {some[0].n_latents:,}",
        l0=_span([row.l0 for row in some]),
        fvu=_span_or_none([row.fvu for row in some]),
    )


def _span(values: Sequence[float]) -> Span:
    return min(values), max(values)


def _span_or_none(values: Sequence[float | None]) -> Span | None:
    there = [value for value in values if value is not None]
    return _span(there) if there else None
