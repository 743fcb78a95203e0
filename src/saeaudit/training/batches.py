"""Shuffled batches of rows held in memory or memory-mapped.

The batch of a step is a pure function of (seed, step): nothing but the step is needed to continue. Each epoch has its
own permutation; the rows left over when the batch size does not divide the rows are others in every epoch.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.seeds import torch_generator


@runtime_checkable
class ResumableBatches(Protocol):
    """Batches that can start in the middle; a run with checkpoints needs them."""

    def starting_at(self, step: int) -> Iterator[Tensor]:
        """Return the batches from 0-based `step` on."""
        ...


class TensorBatches:
    """Iterable of batches "batch ... d_model" in fp32; made by `tensor_batches`."""

    def __init__(self, x: Tensor | np.ndarray, batch_size: int, *, seed: int, n_steps: int) -> None:
        self._x = x
        self._batch_size = batch_size
        self._seed = seed
        self._n_steps = n_steps
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        return self._n_steps

    def __iter__(self) -> Iterator[Float[Tensor, "batch *axes"]]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[Float[Tensor, "batch *axes"]]:
        """Return the batches from 0-based `step` on; equal to iterating from the start and skipping."""
        return (self.batch(i) for i in range(step, self._n_steps))

    def batch(self, step: int) -> Float[Tensor, "batch *axes"]:
        """Return the batch of one step."""
        rows = self.rows(step)
        if isinstance(self._x, Tensor):
            return self._x[rows].float()
        return torch.from_numpy(self._x[rows.numpy()]).float()

    def rows(self, step: int) -> Tensor:
        """Return the row numbers of one step's batch."""
        per_epoch = len(self._x) // self._batch_size
        epoch, place = divmod(step, per_epoch)
        if epoch != self._epoch:
            generator = torch_generator(self._seed, "batches", epoch)
            self._order, self._epoch = torch.randperm(len(self._x), generator=generator), epoch
        return self._order[place * self._batch_size : (place + 1) * self._batch_size]


def tensor_batches(x: Tensor | np.ndarray, batch_size: int, *, seed: int, n_steps: int) -> TensorBatches:
    """Return `n_steps` shuffled batches of the rows of `x`, reshuffled every epoch.

    Args:
        x: "rows ... d_model", any floating dtype; a memory-mapped array is read by slices of rows only.
        batch_size: rows a batch.
        seed: seed of the permutations.
        n_steps: number of batches, over as many epochs as that takes.

    Raises:
        EvidenceError: there are fewer rows than one batch.
    """
    if len(x) < batch_size or batch_size < 1:
        raise EvidenceError(
            f"a batch of {batch_size} rows was asked, {len(x)} rows exist; harvest more rows or lower the batch size",
            code="too-few-rows",
        )
    return TensorBatches(x, batch_size, seed=seed, n_steps=n_steps)
