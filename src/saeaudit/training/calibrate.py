"""Set the inference threshold so that a fresh stream has k active latents a row.

The cutoff is the exact (n*k)-th largest score over all n rows. Scores below the (slack*m*k)-th largest of the m rows
seen so far are dropped on the way to bound memory; the result is checked against the highest bound that was used.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saeaudit.dictionaries import Dictionary
from saeaudit.dictionaries.selection import scores_above
from saeaudit.errors import EvidenceError

_SLACK = 2
_CHUNK_ROWS = 2048


@dataclass(frozen=True)
class Calibration:
    """The threshold that was set, on how many rows, and the mean active latents a row that it gives on them."""

    threshold: float
    n_tokens: int
    l0: float


@torch.no_grad()
def calibrate(dictionary: Dictionary, batches: Iterable[Tensor], *, max_rows: int = 2_000_000) -> Calibration:
    """Set `dictionary.threshold` in place from rows that were not trained on (arXiv 2412.06410, section 3).

    Args:
        dictionary: a trained dictionary.
        batches: raw batches in random order.
        max_rows: reading stops after these many rows.

    Raises:
        EvidenceError: there are no rows ("no-rows"), or their scores drift so much along the stream that it was not
            shuffled ("stream-not-shuffled").
        InputError: a batch has another shape than the dictionary.
    """
    coder, k = dictionary.coder, dictionary.config.k
    weights = coder.score_weights()
    kept = torch.empty(0)
    n_rows, bound = 0, 0.0
    for batch in batches:
        for x in dictionary.checked(batch)[: max_rows - n_rows].split(_CHUNK_ROWS):
            pre = torch.addmm(coder.b_enc, coder.scaled(x.to(coder.shift.device)), coder.W_enc.flatten(1).T)
            kept = torch.cat([kept, scores_above(pre, bound, weights=weights).scores.cpu()])
            n_rows += len(x)
        if len(kept) > 2 * _SLACK * k * n_rows:
            kept = kept.topk(_SLACK * k * n_rows, sorted=False).values
            bound = float(kept.min())
        if n_rows >= max_rows:
            break
    if n_rows == 0:
        raise EvidenceError("the threshold cannot be calibrated on no rows; pass fresh batches", code="no-rows")
    n = k * n_rows
    threshold = float(kept.topk(n, sorted=False).values.min()) if len(kept) >= n else 0.0
    if threshold <= bound and bound > 0:
        raise EvidenceError(
            f"scores fall so much along the {n_rows} calibration rows that those of the first rows mislead; shuffle "
            "the batches",
            code="stream-not-shuffled",
        )
    coder.threshold.fill_(threshold)
    dictionary.provenance = replace(dictionary.provenance, threshold_source="calibrated")
    return Calibration(threshold, n_rows, float((kept > threshold).sum()) / n_rows)
