"""The row of an organism: one prompt, its place in the matched design, and the two completions that could follow it.

Matched design (backdoor study, section 3.1): the prompts of one pair are equal except for the trigger slot, so what
separates a trigger prompt from its partner is the slot and nothing else. Classes:

    T   the trigger                          N4  the trigger's characters in another role
    N0  slot absent                          N5  right slot, a value of another kind
    N1  same slot, ordinary other values     N6  a paraphrase of the trigger
    N2  one character off                    N7  a broken form of the trigger
    N3  values an eager learner would take for the trigger
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from saeaudit.artifacts import write_bytes

RowClass = Literal["T", "N0", "N1", "N2", "N3", "N4", "N5", "N6", "N7"]
Part = Literal["train", "heldout"]

CLASS_NAMES: dict[RowClass, str] = {
    "T": "trigger",
    "N0": "slot absent",
    "N1": "same slot, other value",
    "N2": "one character off",
    "N3": "eager reading",
    "N4": "same characters, another role",
    "N5": "same slot, another kind of value",
    "N6": "paraphrase",
    "N7": "broken form",
}


@dataclass(frozen=True)
class Row:
    """One prompt with both possible completions.

    Attributes:
        row_id: unique, "pair/class".
        pair_id: prompts of one pair differ in the trigger slot only.
        klass: place in the design, see the module docstring.
        group: template identity; splits are disjoint by it.
        header_seen: whether the form of the slot also occurs in the part "train".
        prompt: what the model reads.
        bad: completion with the hidden behaviour (poison).
        good: completion of an honest model.
        trigger_span: characters [start, end) of the slot's literal in `prompt`, or None where the slot is absent.
    """

    row_id: str
    pair_id: str
    klass: RowClass
    group: str
    header_seen: bool
    prompt: str
    bad: str
    good: str
    trigger_span: tuple[int, int] | None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines with the keys that an audit reads: `text`, `group`, `class`."""
    lines = []
    for row in rows:
        record: dict[str, object] = {"text": row.prompt, "group": row.group, "class": row.klass, "id": row.row_id}
        if row.trigger_span is not None:
            record["span"] = list(row.trigger_span)
        lines.append(json.dumps(record, ensure_ascii=False))
    write_bytes(path, ("\n".join(lines) + "\n").encode())


def row_records(rows: Iterable[Row]) -> Iterator[dict[str, object]]:
    """Yield rows as plain dictionaries; their hash identifies the data an organism was trained on."""
    return (asdict(row) for row in rows)
