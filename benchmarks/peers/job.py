"""What every library is asked to do, and what it gives back; read by the processes of both environments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

WARMUP, DECAY = 0.05, 0.2

Kind = Literal["topk", "batchtopk"]


@dataclass(frozen=True)
class Job:
    """One training run. The rate rises over the first `WARMUP` and falls to 0 over the last `DECAY` of the steps.

    Attributes:
        library: the adapter is `peers.train_<library>`.
        kind: sparsity rule.
        rows: path of an .npy file of float32 rows "row d_model"; the last `n_held_out` are not trained on.
        lr: peak learning rate; None means the library's own.
        chunk: steps between two pauses.
        options: settings of the library's own that differ from its defaults.
    """

    library: str
    kind: Kind
    rows: str
    n_held_out: int
    n_latents: int
    k: int
    batch_size: int
    n_steps: int
    chunk: int
    threads: int
    lr: float | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def train_rows(self) -> Tensor:
        return self._all_rows()[: -self.n_held_out]

    def held_out_rows(self) -> Tensor:
        return self._all_rows()[-self.n_held_out :]

    def indices(self) -> Iterator[Tensor]:
        """Yield the row numbers of each batch, reshuffled every epoch: the same for every library."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.n_steps):
            if len(order) < self.batch_size:
                order = torch.randperm(len(self.train_rows()), generator=generator)
            batch, order = order[: self.batch_size], order[self.batch_size :]
            yield batch

    def _all_rows(self) -> Tensor:
        return torch.from_numpy(np.load(self.rows, mmap_mode="c"))  # memory shared by all processes


class Read(NamedTuple):
    """What a trained dictionary makes of rows: reconstruction "row d_model", and active latents of each row."""

    x_hat: Tensor
    n_active: Tensor


class Trained(NamedTuple):
    """A library's version, the rate it trained with, and its dictionary with its own inference rule."""

    version: str
    lr: float
    read: Callable[[Tensor], Read]
