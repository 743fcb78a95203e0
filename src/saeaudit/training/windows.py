"""Shuffled batches from a source of any size, through a window of bounded memory.

The rows are cut into blocks of consecutive rows. Each epoch permutes the blocks, takes them into memory window by
window, and permutes the rows of a window: large reads, no access row by row, and every row once an epoch. Rows are thus
mixed over at least `BLOCKS` places of the source at a time. The batch of a step is a pure function of (seed, step).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.seeds import torch_generator

WINDOW_BYTES = 1 << 30
BLOCKS, MAX_BLOCK_ROWS = 64, 4096


@runtime_checkable
class RowSource(Protocol):
    """Named tensors "row d_model" with equally many rows; `ActivationStore` is one."""

    @property
    def n_rows(self) -> int: ...

    def read(self, name: str, rows: np.ndarray) -> Float[Tensor, "row d_model"]: ...


@dataclass(frozen=True, eq=False)
class WindowedBatches:
    """Batches {name: "batch d_model" fp32}, the same rows under every name; resumable.

    Attributes:
        source: where the rows are.
        names: tensors of the source to read.
        batch_size: rows a batch.
        seed: of the permutations.
        n_steps: number of batches, over as many epochs as that takes; None means one epoch.
        rows: rows of the source to use, in its order; None means all.
        window_bytes: memory for rows that wait; at least a batch.
        dtype: in which they wait. The default is that of a store, where nothing is lost.
        drop_last: leave out the rows of an epoch that do not fill a batch, which are others in every epoch; else they
            are a smaller batch.

    Raises:
        EvidenceError: there are fewer rows than one batch and `drop_last`, or none ("too-few-rows").
    """

    source: RowSource
    names: Sequence[str]
    batch_size: int
    seed: int
    n_steps: int | None = None
    rows: Int[np.ndarray, " row"] | None = None
    window_bytes: int = WINDOW_BYTES
    dtype: torch.dtype = torch.bfloat16
    drop_last: bool = True

    def __post_init__(self) -> None:
        if self.steps_per_epoch < 1:
            raise EvidenceError(
                f"a batch of {self.batch_size} rows was asked, {self.n_rows} rows exist; harvest more rows or lower "
                "the batch size",
                code="too-few-rows",
            )

    @property
    def n_rows(self) -> int:
        return self.source.n_rows if self.rows is None else len(self.rows)

    @property
    def steps_per_epoch(self) -> int:
        full, rest = divmod(self.n_rows, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[dict[str, Float[Tensor, "batch d_model"]]]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[dict[str, Float[Tensor, "batch d_model"]]]:
        """Return the batches from 0-based `step` on; equal to iterating from the start and skipping."""
        window = _Window(self)
        for i in range(step, self.steps_per_epoch if self.n_steps is None else self.n_steps):
            epoch, place = divmod(i, self.steps_per_epoch)
            yield window.batch(epoch, place * self.batch_size)


class _Window:
    """The rows that are in memory, and the order in which they leave."""

    def __init__(self, batches: WindowedBatches) -> None:
        self._of = batches
        first = np.zeros(1, np.int64) if batches.rows is None else batches.rows[:1]
        widths = {name: batches.source.read(name, first).shape[1] for name in batches.names}
        row_bytes = batches.dtype.itemsize * sum(widths.values())
        fitting = max(1, batches.window_bytes // (row_bytes * batches.batch_size)) * batches.batch_size
        self._size = min(fitting, batches.n_rows)
        self._block = max(1, min(MAX_BLOCK_ROWS, self._size // BLOCKS))
        self._buffers = {name: torch.empty(self._size, width, dtype=batches.dtype) for name, width in widths.items()}
        self._held: tuple[int, int] | None = None
        self._order = torch.empty(0, dtype=torch.int64)

    def batch(self, epoch: int, position: int) -> dict[str, Tensor]:
        """Return the rows at `position` and after in the order of an epoch; they never cross two windows."""
        number, offset = divmod(position, self._size)
        if self._held != (epoch, number):
            self._fill(epoch, number)
        chosen = self._order[offset : offset + self._of.batch_size]
        return {name: buffer[chosen].float() for name, buffer in self._buffers.items()}

    def _fill(self, epoch: int, number: int) -> None:
        n_rows, filled = self._of.n_rows, 0
        for start, stop in self._runs(epoch, number):
            rows = np.arange(start, stop) if self._of.rows is None else self._of.rows[start:stop]
            for name, buffer in self._buffers.items():
                buffer[filled : filled + len(rows)] = self._of.source.read(name, rows)
            filled += len(rows)
        size = min(self._size, n_rows - number * self._size)
        self._order = torch.randperm(size, generator=torch_generator(self._of.seed, "window", epoch, number))
        self._held = epoch, number

    def _runs(self, epoch: int, number: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of the runs of rows that make up a window; none if it holds all rows already."""
        n_rows = self._of.n_rows
        starts = np.arange(0, n_rows, self._block)
        if self._size < n_rows:
            generator = torch_generator(self._of.seed, "blocks", epoch)
            starts = starts[torch.randperm(len(starts), generator=generator).numpy()]
        elif self._held is not None:
            return
        stops = np.minimum(starts + self._block, n_rows)
        ends = np.cumsum(stops - starts)
        low, high = number * self._size, min((number + 1) * self._size, n_rows)
        for start, stop, end in zip(starts, stops, ends, strict=True):
            begin = end - (stop - start)
            if end > low and begin < high:
                yield int(start + max(0, low - begin)), int(stop - max(0, end - high))
