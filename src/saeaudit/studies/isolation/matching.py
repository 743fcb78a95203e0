"""Equal sparsity for rules that do not fix it: search the penalty at which a dictionary has the wanted L0.

A comparison of dictionaries at unequal sparsity compares sparsity. The held-out L0 falls as lambda rises, nearly as a
power of it, so the search interpolates in logarithms between the two nearest trials.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

T = TypeVar("T")

FACTOR = 4.0
# Within this share of what is wanted the sparsity counts as matched.
MATCHED = 0.05


class Trial(NamedTuple):
    """One training: log lambda and log L0."""

    weight: float
    l0: float


def match_l0(
    train: Callable[[float], T], l0_of: Callable[[T], float], *, wanted: float, start: float, n_trials: int
) -> tuple[T, int]:
    """Return what the last training made, and how many there were.

    Args:
        train: trains with this lambda, above 0.
        l0_of: mean active latents a token of what was trained, on held-out rows.
        wanted: L0 to reach, within 5 %.
        start: first lambda.
        n_trials: trainings at most; the last is returned whether it is near or not.
    """
    weight, trials = math.log(start), []
    for n in range(1, n_trials + 1):
        made = train(math.exp(weight))
        l0 = l0_of(made)
        if abs(l0 / wanted - 1) <= MATCHED or n == n_trials:
            return made, n
        trials.append(Trial(weight, math.log(max(l0, 1e-3))))
        weight = _next(trials, math.log(wanted))
    raise ValueError(f"n_trials must be at least 1, found {n_trials}")


def _next(trials: list[Trial], wanted: float) -> float:
    dense = max((t for t in trials if t.l0 > wanted), default=None)  # the largest lambda that is still too weak
    sparse = min((t for t in trials if t.l0 < wanted), default=None)
    if dense is None or sparse is None:
        return trials[-1].weight + math.copysign(math.log(FACTOR), trials[-1].l0 - wanted)
    share = (dense.l0 - wanted) / (dense.l0 - sparse.l0)
    # Never nearer than a tenth to either end: at a cliff plain interpolation would creep.
    return dense.weight + min(0.9, max(0.1, share)) * (sparse.weight - dense.weight)
