"""What the checks share: tables of cells, and the numbers taken from them."""

from collections.abc import Mapping

from saeaudit.paper_results import PaperRow
from saeaudit.studies.isolation.paper.cells import PaperCell
from saeaudit.studies.isolation.paper.names import PaperMethod

Table = Mapping[PaperMethod, PaperCell | PaperRow]
"""Cells of several methods on the same rows."""


def bis_of(table: Table, *methods: PaperMethod, label: str = "") -> dict[str, float | None]:
    """Return the BIS of those methods that the table holds, named "label method"."""
    return {f"{label} {method}".strip(): table[method].bis for method in methods if method in table}


def share_of_ceiling(cell: PaperCell | PaperRow | None) -> float:
    """Return BIS / ceiling (0..1); 0 where there is no score."""
    return 0.0 if cell is None or cell.bis is None else cell.bis / cell.ceiling
