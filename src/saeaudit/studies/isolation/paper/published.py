"""The numbers that arXiv 2605.07324 publishes, to print beside ours.

Source: the released results file of the full-rank organism (techsachinkr/diff-sae-backdoor-detection), which reads
layers 14, 18, 22 and 26 of the 32 of SmolLM2-360M. That of the LoRA organism was not released. Figures only; the
release carries no licence, so nothing else of it is here.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from saeaudit.metrics import Interval
from saeaudit.studies.isolation.paper.cells import PaperCell
from saeaudit.studies.isolation.paper.names import PaperMethod


class Published(NamedTuple):
    """One published cell: BIS, precision, recall and false-positive rate of the best latent; None where not given."""

    layer: int
    bis: float
    precision: float | None = None
    recall: float | None = None
    benign_fpr: float | None = None
    interval: Interval | None = None


N_BLOCKS = 32
VARIANCE_RATIO: Mapping[int, float] = MappingProxyType({14: 0.0087, 18: 0.0144, 22: 0.0360, 26: 0.0505})
PUBLISHED: Mapping[PaperMethod, tuple[Published, ...]] = MappingProxyType(
    {
        "diff-32x": (
            Published(14, 0.400, 1.0, 0.25, 0.0, Interval(0.374, 0.426)),
            Published(18, 0.400, 1.0, 0.25, 0.0, Interval(0.376, 0.428)),
            Published(22, 0.400, 1.0, 0.25, 0.0, Interval(0.373, 0.426)),
            Published(26, 0.400, 1.0, 0.25, 0.0, Interval(0.377, 0.422)),
        ),
        "diff-4x": tuple(Published(layer, 0.400) for layer in VARIANCE_RATIO),
        "crosscoder-32x": (
            Published(14, 0.0),
            Published(18, 0.0),
            Published(22, 0.0),
            Published(26, 0.235, 0.616, 0.154, 0.047, Interval(0.200, 0.272)),
        ),
    }
)
REPRODUCED_RANGE = Interval(0.37, 0.43)


def published_cell(method: PaperMethod, layer: int, n_blocks: int) -> Published | None:
    """Return the published cell at the nearest relative depth, the shallower one of equals; None if there is none.

    >>> published_cell("diff-32x", 17, 30).layer
    18
    """
    cells = PUBLISHED.get(method, ())
    return min(cells, key=lambda cell: abs(cell.layer / N_BLOCKS - layer / n_blocks), default=None)


def is_reproduced(cells: Sequence[PaperCell]) -> bool:
    """Return whether at least three quarters of these `diff-32x` cells, one a layer, score what was published."""
    low, high = REPRODUCED_RANGE
    within = sum(cell.bis is not None and low <= cell.bis <= high for cell in cells)
    return bool(cells) and within >= 0.75 * len(cells)
