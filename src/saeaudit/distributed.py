"""The processes of one run, as `torchrun` starts them, and the few things they tell each other.

Without torchrun there is one process: `joined()` gives `ALONE`, whose collectives return what they were given, and
torch.distributed is not touched. Functions that share work take a `Ranks`; there is no global one.

A rank that fails ends with its own message and exit code; the others learn it at their next collective, or from
torchrun, which stops them.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from saeaudit.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Selection = Literal["global", "local"]
# The others wait while the first one judges and writes; a rank that dies is noticed at once all the same.
PATIENCE = timedelta(hours=12)


def launched_size() -> int:
    """Return how many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def launched_rank() -> int:
    """Return the number of this process among them, from 0; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def launched_local_rank() -> int:
    """Return the number of this process among those on its machine, from 0; 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


class Ranks:
    """Some processes of a run and the place of this one among them.

    All of them must call a method of theirs together. Reductions may overwrite their argument; every rank gets the same
    bits. Every collective raises `ResourceError` (code `rank-lost`) when another rank has stopped.

    Args:
        rank: number of this process, from 0.
        size: number of processes.
        group: torch's process group; None is all processes.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: Any = None) -> None:
        self.rank, self.size, self._group = rank, size, group

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def sum(self, x: "Tensor") -> "Tensor":
        """Return the sum over ranks."""
        return self._reduce(x, "SUM")

    def mean(self, x: "Tensor") -> "Tensor":
        """Return the mean over ranks."""
        return x if self.size == 1 else self.sum(x).div_(self.size)

    def max(self, x: "Tensor") -> "Tensor":
        """Return the largest over ranks, number by number."""
        return self._reduce(x, "MAX")

    def min(self, x: "Tensor") -> "Tensor":
        """Return the smallest over ranks, number by number."""
        return self._reduce(x, "MIN")

    def gather(self, x: "Tensor") -> "Tensor":
        """Return "rank ...": the tensors of all ranks, which must have one shape."""
        if self.size == 1:
            return x.unsqueeze(0)
        import torch.distributed as dist

        out = x.new_empty(self.size, *x.shape)
        with _together():
            dist.all_gather(list(out.unbind(0)), x.contiguous(), group=self._group)
        return out

    def gather_json(self, value: Any) -> list[Any]:
        """Return the JSON values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        import torch

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = int(self.max(torch.tensor(len(data))))
        padded = torch.full((length,), ord(" "), dtype=torch.uint8)
        padded[: len(data)] = data
        return [json.loads(bytes(part.tolist())) for part in self.gather(padded)]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            import torch

            self.sum(torch.zeros(1))

    def split(self, n: int) -> "tuple[Ranks, Ranks]":
        """Return two groups of this rank in a grid of `size / n` rows of `n` neighbours: its column and its row.

        Raises:
            ConfigError: `n` does not divide the number of ranks (code `ranks-not-divisible`).
        """
        if self.size % n:
            raise ConfigError(
                f"groups of {n} were asked of {self.size} processes; start a multiple of {n} with torchrun",
                code="ranks-not-divisible",
            )
        if n == 1:
            return self, ALONE
        import torch.distributed as dist

        rows = [list(range(start, start + n)) for start in range(0, self.size, n)]
        columns = [list(range(start, self.size, n)) for start in range(n)]
        found = []
        for members in (columns, rows):
            groups = [dist.new_group(ranks, timeout=PATIENCE) for ranks in members]  # every rank makes every group
            mine = next(i for i, ranks in enumerate(members) if self.rank in ranks)
            found.append(Ranks(members[mine].index(self.rank), len(members[mine]), groups[mine]))
        return found[0], found[1]

    def _reduce(self, x: "Tensor", how: str) -> "Tensor":
        if self.size == 1:
            return x
        import torch.distributed as dist

        with _together():
            dist.all_reduce(x, getattr(dist.ReduceOp, how), group=self._group)
        return x


ALONE = Ranks()


@dataclass(frozen=True)
class Grid:
    """Ranks that divide a training step: each has some rows of every batch and some latents of the dictionary.

    Attributes:
        rows: those that have the same latents and other rows.
        latents: those that have the same rows and other latents.
        world: all of them.
        compete: those whose latents compete for the places of a batch, where a rule looks at the whole batch.
    """

    rows: Ranks = ALONE
    latents: Ranks = ALONE
    world: Ranks = ALONE
    compete: Ranks = ALONE


WHOLE = Grid()


def grid_of(ranks: Ranks, *, latent_shards: int = 1, selection: Selection = "global") -> Grid:
    """Return the grid in which `latent_shards` neighbouring ranks share a dictionary, and groups of them share rows.

    Args:
        ranks: all processes.
        latent_shards: parts that the latents are cut into.
        selection: rows compete in the whole batch, or among the rows of a rank only.

    Raises:
        ConfigError: `latent_shards` does not divide the number of ranks (code `ranks-not-divisible`).
    """
    rows, latents = ranks.split(latent_shards)
    return Grid(rows, latents, ranks, compete=ranks if selection == "global" else latents)


@contextmanager
def joined(device: "torch.device | str" = "cpu") -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the block: gloo for tensors on a CPU, nccl for those on a GPU.

    Args:
        device: what this process computes on; no two processes share a GPU.
    """
    if launched_size() == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    yield Ranks(dist.get_rank(), dist.get_world_size())
    # Not after an error: it would wait for the ranks that are gone.
    dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(
            "another process of this run stopped or does not answer; its own message says why, and the same command "
            f"again continues ({str(error).splitlines()[0].split('] ', 1)[-1]})",
            code="rank-lost",
        ) from error
