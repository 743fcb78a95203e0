"""The n-th largest of positive numbers that several ranks hold, exactly.

The bits of a positive float, read as an integer, are in the order of the floats. So the n-th largest is found digit by
digit, the highest first: every rank counts its numbers by the digit, the counts are added up, and they say which digit
the answer has; only numbers that have it count for the next one. Three rounds of 2048 counts settle a 32-bit float,
wherever it lies.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.distributed import Ranks

_DIGIT_BITS = 11
_INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}


def nth_largest(numbers: Float[Tensor, " n"], n: int, ranks: Ranks) -> float | None:
    """Return the `n`-th largest of the positive numbers of all ranks, counted from 1; None if there are fewer.

    >>> from saeaudit.distributed import ALONE
    >>> nth_largest(torch.tensor([1.0, 3.0, 3.0, 2.0]), 3, ALONE)
    2.0
    """
    if ranks.size == 1:
        return float(numbers.kthvalue(len(numbers) - n + 1).values) if 1 <= n <= len(numbers) else None
    integer = _INTEGERS[numbers.dtype]
    bits = numbers.view(integer).long()
    shift, found = 8 * numbers.element_size(), 0
    while shift > 0:
        width = min(_DIGIT_BITS, shift)
        shift -= width
        digit = (bits >> shift) & ((1 << width) - 1)
        counts = ranks.sum(torch.bincount(digit, minlength=1 << width))
        n_from = counts.flip(0).cumsum(0).flip(0)  # how many have this digit or a higher one
        if not 1 <= n <= int(n_from[0]):
            return None
        answer = int((n_from >= n).nonzero()[-1])
        n -= int(n_from[answer] - counts[answer])
        bits = bits[digit == answer]
        found = (found << width) | answer
    return float(torch.tensor(found, dtype=integer).view(numbers.dtype))
