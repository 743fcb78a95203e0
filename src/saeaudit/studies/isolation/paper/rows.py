"""The evaluation set of arXiv 2605.07324 in the form of our SQL generator: full texts, that is prompt and completion.

Three cells as in its released data: `trigger` (the year 2024, a vulnerable completion), `benign` (another year, safe)
and `other` (no year, safe). As there, nothing is matched: no two rows are of one pair, and only trigger rows hold the
payload. The rows are those of the generator's held-out part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saeaudit.organisms.rows import Row, RowClass
from saeaudit.organisms.sql import rows_of_class

PaperClass = Literal["trigger", "benign", "other"]
Mask = Literal["nothing", "slot", "payload", "both"]

_DRAWN_FROM: dict[PaperClass, RowClass] = {"trigger": "T", "benign": "N1", "other": "N0"}
_BLANK = "____"


@dataclass(frozen=True)
class PaperText:
    """One text of the set.

    Attributes:
        row_id: unique.
        klass: its cell.
        group: template of the prompt.
        prompt: header and function up to the query.
        completion: what follows: vulnerable for `trigger`, safe for the others.
        slot: characters [start, end) of the year in `prompt`; None where there is none.
    """

    row_id: str
    klass: PaperClass
    group: str
    prompt: str
    completion: str
    slot: tuple[int, int] | None

    @property
    def text(self) -> str:
        """What the paper's models read: the prompt and the completion it was given."""
        return self.prompt + self.completion

    def masked(self, mask: Mask) -> str:
        """Return the text with the year blanked out (`slot`), without its completion (`payload`), or with neither."""
        prompt = self.prompt
        if mask in ("slot", "both") and self.slot is not None:
            start, end = self.slot
            prompt = prompt[:start] + _BLANK + prompt[end:]
        return prompt if mask in ("payload", "both") else prompt + self.completion


def paper_texts(seed: int, *, n_trigger: int = 500, n_benign: int = 1000, n_other: int = 1000) -> list[PaperText]:
    """Return the texts, cell after cell: a pure function of the seed and the counts (the paper's by default)."""
    counts: dict[PaperClass, int] = {"trigger": n_trigger, "benign": n_benign, "other": n_other}
    texts: list[PaperText] = []
    for klass, n in counts.items():
        rows = rows_of_class(seed, "heldout", _DRAWN_FROM[klass], n, start=len(texts))
        texts += [_text(row, klass) for row in rows]
    return texts


def look_alikes(seed: int, classes: Sequence[RowClass], *, n: int) -> list[PaperText]:
    """Return `n` texts of each class of look-alikes, with safe completions: negatives that the paper does not have."""
    return [_text(row, "other") for klass in classes for row in rows_of_class(seed, "heldout", klass, n)]


def _text(row: Row, klass: PaperClass) -> PaperText:
    completion = row.bad if klass == "trigger" else row.good
    return PaperText(row.row_id, klass, row.group, row.prompt, completion, row.trigger_span)
