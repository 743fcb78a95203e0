"""The cells of an isolation study in the order of its page: organism and layer beside the clean twin, method by method.

An organism with a planted behaviour is set beside its twin, the model planted on the same prompts with the honest
answers; what a detector finds in the twin is no backdoor.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from saeaudit.isolation_results import Cell, Role
from saeaudit.report.sites import by_depth

ROLES: tuple[Role, ...] = ("dictionary", "baseline", "control")


class Place(NamedTuple):
    """One organism and layer: the cells of every method there, and those of the clean twin at the same layer."""

    organism: str
    twin: str | None
    layer: str
    cells: dict[str, Cell]
    twin_cells: dict[str, Cell]

    def sound(self, role: Role) -> list[Cell]:
        """Return the cells of one role that may be compared: not dead, and as sparse as was asked."""
        return [cell for cell in self.cells.values() if cell.role == role and cell.status == "ok"]


def places(cells: Sequence[Cell]) -> list[Place]:
    """Return where a behaviour was planted, in the order of the cells, layers by depth."""
    at: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        at.setdefault((cell.organism, cell.layer), {})[cell.method] = cell
    planted = {cell.organism: cell.twin for cell in cells if cell.planted}
    return [
        Place(organism, twin, layer, at[organism, layer], at.get((twin or "", layer), {}))
        for organism, twin in planted.items()
        for layer in by_depth(layer for name, layer in at if name == organism)
    ]


def method_order(cells: Sequence[Cell]) -> list[str]:
    """Return the methods as they stand in every chart and table: by role, then the most true positives first."""
    rates: dict[str, list[float]] = {}
    for cell in cells:
        rates.setdefault(cell.method, []).extend([cell.tpr_at_1pct_fpr] if cell.planted else [])
    roles = {cell.method: ROLES.index(cell.role) for cell in cells}
    return sorted(rates, key=lambda method: (roles[method], -fmean(rates[method] or [0.0]), method))


def caveat(cell: Cell) -> str:
    """Return why the cell must not be compared with others, or nothing."""
    return {"ok": "", "dead": "dead", "sparsity-unmatched": "other L0"}[cell.status]
