"""How much memory a training step takes, and what is said when there is not enough."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from saeaudit.dictionaries import SparseCoder
from saeaudit.errors import ResourceError

_FP32 = 4
# Tensors of the width of the input that live at once: target, source, reconstruction, error and their gradients.
_ROWS_AT_ONCE = 6


def training_bytes(coder: SparseCoder, batch_size: int) -> int:
    """Return the bytes of a step: parameters with gradient and two moments, pre-activations, rows.

    The values at active places are left out; they matter where most latents are active.
    """
    return _fixed_bytes(coder) + batch_size * _row_bytes(coder)


def largest_batch(coder: SparseCoder, available: int) -> int:
    """Return the largest batch whose step takes at most `available` bytes; 0 if not even the parameters fit."""
    return max(0, (available - _fixed_bytes(coder)) // _row_bytes(coder))


@contextmanager
def memory_errors(coder: SparseCoder, batch_size: int, *, last_checkpoint: Path | None) -> Iterator[None]:
    """Turn an allocation that fails in a step into a `ResourceError` (code "out-of-memory") that says what fits."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_allocation(error):
            raise
        device = coder.threshold.device
        needed, total = training_bytes(coder, batch_size), _total_bytes(device)
        fits = largest_batch(coder, total)
        advice = f"a batch of {fits} rows fits" if 0 < fits < batch_size else "take fewer latents or a larger machine"
        kept = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "no checkpoint was written"
        raise ResourceError(
            f"out of memory on {device}: a step with {batch_size} rows and {len(coder.b_enc)} latents takes about "
            f"{needed / 1e9:.1f} GB, beside what else is there, of {total / 1e9:.1f} GB; {advice}; {kept}",
            code="out-of-memory",
        ) from error


def _fixed_bytes(coder: SparseCoder) -> int:
    return 4 * sum(parameter.numel() for parameter in coder.parameters()) * _FP32


def _row_bytes(coder: SparseCoder) -> int:
    return _FP32 * (len(coder.b_enc) + _ROWS_AT_ONCE * coder.shift.numel())


def _is_allocation(error: Exception) -> bool:
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
