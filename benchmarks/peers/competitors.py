"""Who is compared: libraries with the settings of their own that matter, and three learning rates for each to try.

The rates are those around the best of a first look; the libraries' own are made for far longer runs.
"""

from dataclasses import dataclass, field
from typing import Any

from peers.job import Job, Kind

US = "saeaudit"


@dataclass(frozen=True)
class Competitor:
    """A library with a sparsity rule.

    Attributes:
        note: what is set besides the shape, for the table.
        options: the same for its adapter.
        rates: peak learning rates to choose from.
    """

    library: str
    kind: Kind
    rates: tuple[float, float, float]
    note: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.library, self.kind, self.note)))

    def job(self, shape: dict[str, Any], lr: float | None) -> Job:
        return Job(self.library, self.kind, lr=lr, options=self.options, **shape)


ADAM = (5e-3, 1e-2, 2e-2)
FREE_NORMS = (2.5e-3, 5e-3, 1e-2)
# By default the running threshold of a run of 100 steps is still far from the activations that it follows.
SAELENS_SHORT = {"autocast": True, "topk_threshold_lr": 0.05}
DICTIONARY_LEARNING_SHORT = {"threshold_beta": 0.95}

COMPETITORS = (
    Competitor(US, "topk", ADAM),
    Competitor(US, "batchtopk", ADAM),
    Competitor("sparsify", "topk", (5e-3, 1e-2, 2e-2), "signum"),
    Competitor("sparsify", "topk", ADAM, "Adam", {"optimizer": "adam"}),
    Competitor("saelens", "topk", FREE_NORMS, "bfloat16", {"autocast": True}),
    Competitor("saelens", "batchtopk", FREE_NORMS, "bfloat16", SAELENS_SHORT),
    Competitor("dictionary_learning", "topk", ADAM),
    Competitor("dictionary_learning", "batchtopk", ADAM, options=DICTIONARY_LEARNING_SHORT),
)
