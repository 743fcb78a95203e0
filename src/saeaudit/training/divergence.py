"""A step whose loss or gradient is not finite ends the run before it reaches the weights; its batch is kept."""

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from jaxtyping import Float, Shaped
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from saeaudit.artifacts import atomic_directory, write_json
from saeaudit.distributed import Ranks
from saeaudit.errors import NumericsError, ResourceError

_SCHEMA = 1


def require_finite(
    losses: Mapping[str, Float[Tensor, ""]],
    grad_norm: Float[Tensor, ""],
    batch: Shaped[Tensor, "batch *axes"],
    *,
    step: int,
    keep_in: Path | None,
    last_checkpoint: Path | None,
    world: Ranks,
) -> None:
    """Check the numbers of a step; where ranks divide it, all of them stop.

    Args:
        losses: each term's value.
        grad_norm: of all gradients together, before clipping.
        batch: raw rows of the step.
        step: counted from 0.
        keep_in: directory that receives the batch if a number is not finite.
        last_checkpoint: what the error can point to.
        world: the ranks.

    Raises:
        NumericsError: code "training-diverged"; the text names the number, the step, the last checkpoint and the batch.
    """
    # Neither implies the other: a loss can overflow where its gradient does not, and a root has no slope at 0. Read
    # together they make the host wait for a GPU once.
    means = world.mean(torch.stack([loss.detach() for loss in losses.values()]))
    measured = torch.cat([means, grad_norm.unsqueeze(0)])
    if bool(measured.isfinite().all()):
        return
    names = [*(f"loss/{name}" for name in losses), "grad_norm"]  # as they are logged
    numbers = dict(zip(names, measured.tolist(), strict=True))
    broken = next(name for name in names if not math.isfinite(numbers[name]))
    kept = _keep(keep_in / f"diverged-{step:09d}", batch, numbers, step) if keep_in and world.leads else None
    stored = f"the last checkpoint is {last_checkpoint}" if last_checkpoint else "no checkpoint was written"
    where = f", which is in {kept}," if kept else ""
    raise NumericsError(
        f"{broken} became {numbers[broken]} at step {step} (counted from 0); {stored}. Check the batch of that "
        f"step{where} for NaN or infinite activations, or lower the learning rate",
        code="training-diverged",
    )


def _keep(path: Path, batch: Tensor, numbers: Mapping[str, float], step: int) -> Path | None:
    """Write the batch and the numbers; return the path, or None where the disk refuses, which is not the error here."""
    with suppress(ResourceError, SafetensorError), atomic_directory(path) as staging:
        save_file({"x": batch.cpu().contiguous().clone()}, staging / "batch.safetensors")
        text = {name: str(number) for name, number in numbers.items()}  # JSON has no NaN
        write_json(staging / "step.json", {"schema": _SCHEMA, "step": step, "numbers": text})
        return path
    return None
