"""What the paper's experiment gives on our models, and what is wrong with it: the records of both."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from saeaudit.findings import Interval, Number, Record, Share

Reading = Literal["text", "prompt"]


class PaperRow(Record):
    """One method of the paper's experiment on one model and layer; scored on the rows that it was fitted to.

    Attributes:
        organism: tuned model.
        layer: site.
        reads: "text", the mean over prompt and completion, as published; "prompt", the last token of the prompt.
        method: dictionary or control.
        status: "dead" or "constant" where there is no score.
        bis: of the best latent, with precision, recall and false-positive rate on the benign cell.
        interval: 95 %, thresholds found anew, the latent kept.
        ceiling: the largest BIS that any latent could have.
        by_chance: mean BIS of the best of as many latents that ignore the label.
        n_latents: candidates; `n_alive` of them ever fire, `n_above_0` score more than 0, and `n_near_ceiling` are
            within 5 % of the ceiling.
        l0: mean number of latents that fire on a row.
        fvu: of a dictionary on its own rows (0 is perfect).
        variance_ratio: var(delta) / var(h0) of the rows.
        published: the paper's BIS at the nearest relative depth, with its interval.
        n: rows by cell.
        seconds: of training and scoring.
    """

    organism: str
    layer: str
    reads: Reading
    method: str
    status: Literal["ok", "dead", "constant"]
    bis: Share | None
    precision: Share | None
    recall: Share | None
    benign_fpr: Share | None
    interval: Interval | None
    ceiling: Share
    by_chance: Share
    n_latents: int
    n_alive: int
    n_above_0: int
    n_near_ceiling: int
    l0: Number
    fvu: Number | None
    variance_ratio: Number
    published: Share | None
    published_interval: Interval | None
    n: dict[str, int] = Field(min_length=1)
    seconds: Number

    @property
    def n_rows(self) -> int:
        """All rows."""
        return sum(self.n.values())


class Fault(Record):
    """One fault of the paper's experiment.

    Attributes:
        id: "W1" to "W17"; a fault may be shown twice, on planted numbers and on a model.
        claim: what is wrong.
        computed: what the check does; the source, where nothing can be computed.
        expected: what shows the fault.
        found: numbers by name; None where a score does not exist.
        n: what was counted, by name.
        survives: where the fault remains, and where it does not.
        confirmed: whether what was found is what was expected; None for a stated fact.
    """

    id: str
    claim: str
    computed: str
    expected: str
    found: Mapping[str, Number | None]
    n: Mapping[str, int]
    survives: str
    confirmed: bool | None


class PaperRows(Record):
    """The rows that one task makes."""

    rows: list[PaperRow]


class Faults(Record):
    """The checks that one task makes; `layer` where they read a model."""

    faults: list[Fault]
    layer: str | None = None
