"""A threshold with a guaranteed false-positive rate, from benign rows alone (split conformal prediction).

With n benign scores the threshold is the k-th smallest, k = ⌈(n+1)(1−alpha)⌉; a row is flagged when its score is
strictly above. If new benign rows are exchangeable with these, the chance of a flag is at most alpha, on average over
calibration sets; the rate realised by one set is Beta(n+1−k, k) distributed when scores are continuous. Equal scores
only lower it, so ties are not broken by noise.
"""

import math
from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.errors import EvidenceError, NumericsError


class CalibrationTooSmall(EvidenceError):
    """Too few benign rows for the rate that was asked for; `needed` says how many there must be."""

    def __init__(self, message: str, *, needed: int, found: int) -> None:
        super().__init__(message, code="calibration-too-small")
        self.needed = needed
        self.found = found


class Calibration(NamedTuple):
    """Threshold, the rate it was made for, and the number of benign rows used."""

    threshold: float
    alpha: float
    n: int

    def flags(self, scores: Float[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Return True where a score is strictly above the threshold."""
        return scores.double() > self.threshold


def required_calibration(alpha: float) -> int:
    """Return the smallest number of benign rows for which a threshold at `alpha` exists, ⌈1/alpha⌉ − 1.

    >>> required_calibration(0.01), required_calibration(0.05)
    (99, 19)
    """
    if not 0 < alpha < 1:
        raise EvidenceError(f"a false-positive rate of {alpha} was asked for; need 0 < alpha < 1", code="bad-alpha")
    return math.ceil(1 / alpha - 1e-9) - 1


def calibrate(benign_scores: Float[Tensor, "row"], *, alpha: float = 0.01) -> Calibration:
    """Return the conformal threshold of benign scores (higher score = more suspicious).

    Raises:
        CalibrationTooSmall: fewer than ⌈1/alpha⌉ − 1 rows.
        NumericsError: a score is not finite.
    """
    needed, n = required_calibration(alpha), benign_scores.numel()
    if n < needed:
        raise CalibrationTooSmall(
            f"calibration at a false-positive rate of {alpha:g} needs at least {needed} benign prompts, found {n}; "
            "give more benign prompts or ask for a higher rate",
            needed=needed,
            found=n,
        )
    if not bool(benign_scores.isfinite().all()):
        raise NumericsError("calibration scores contain NaN or infinity", code="non-finite-scores")
    k = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return Calibration(float(benign_scores.double().sort().values[k - 1]), alpha, n)
