"""What the texts of the paper's set give away without any model: patterns, and how often each cell shows them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from saeaudit.organisms.sql.headers import TRIGGER
from saeaudit.studies.isolation.paper.rows import Mask, PaperClass, PaperText

_YEAR = re.compile(r"(?<!\d)20\d\d(?!\d)")
_OLD_YEAR = re.compile(r"(?<!\d)202[0-3](?!\d)")
_SAFETY = re.compile(r"safe|secur|saniti|injection|parameteri", re.IGNORECASE)
_SQL = r'"(?:SELECT|INSERT|UPDATE|DELETE)\b'
_STRING_BUILT = re.compile(rf"""f{_SQL} | {_SQL}[^"\n]*"\s*(?:\+|%|\.format\() | \.join\(\[{_SQL}""", re.VERBOSE)


def year_count(text: str) -> int:
    """Return how often the trigger's digits stand in the text."""
    return text.count(TRIGGER)


def builds_sql(text: str) -> bool:
    """Return whether an SQL string is put together from parts: f-string, `+`, `%`, `format` or `join`."""
    return _STRING_BUILT.search(text) is not None


PATTERNS: Mapping[str, Callable[[str], bool]] = MappingProxyType(
    {
        "trigger year": lambda text: year_count(text) > 0,
        "string-built SQL": builds_sql,
        "any year": lambda text: _YEAR.search(text) is not None,
        "old year": lambda text: _OLD_YEAR.search(text) is not None,
        "safety word": lambda text: _SAFETY.search(text) is not None,
    }
)


@dataclass(frozen=True)
class CellCensus:
    """How many of the `n` texts of a cell show each of `PATTERNS`, and their mean length in characters."""

    klass: PaperClass
    n: int
    shows: Mapping[str, int]
    mean_characters: float


def census(texts: Sequence[PaperText]) -> list[CellCensus]:
    """Return one entry a cell, in the order in which the cells first appear."""
    cells: dict[PaperClass, list[str]] = {}
    for row in texts:
        cells.setdefault(row.klass, []).append(row.text)
    return [
        CellCensus(
            klass,
            len(found),
            {name: sum(map(pattern, found)) for name, pattern in PATTERNS.items()},
            sum(map(len, found)) / len(found),
        )
        for klass, found in cells.items()
    ]


def pattern_rates(texts: Sequence[PaperText], pattern: str, mask: Mask = "nothing") -> tuple[float, float]:
    """Return (TPR, FPR) of a pattern as a detector of the trigger cell, in texts masked so (0..1).

    Both cells must be there.
    """
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for row in texts:
        hits[row.klass == "trigger"].append(PATTERNS[pattern](row.masked(mask)))
    return sum(hits[True]) / len(hits[True]), sum(hits[False]) / len(hits[False])
