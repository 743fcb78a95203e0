"""Ranks for tests: forked processes that talk by gloo, threads that stand for them, and torchrun itself."""

import multiprocessing
import os
import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from saeaudit.distributed import Ranks

BIN = Path(sys.executable).parent


def in_processes(size, work, directory, *, exits=None):
    """`work(ranks)` in `size` processes; returns what each returned. With `exits`, they must end with those codes."""
    directory.mkdir(parents=True, exist_ok=True)

    def one(rank):
        import torch.distributed as dist

        try:
            dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=size)
            torch.save(work(Ranks(rank, size)), directory / f"{rank}.pt")
            dist.destroy_process_group()
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # a process forked from a test runner must not go on as one
        os._exit(0)

    started = [multiprocessing.get_context("fork").Process(target=one, args=(rank,)) for rank in range(size)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == (exits or [0] * size), "tracebacks are above"
    return [] if exits else [torch.load(directory / f"{rank}.pt", weights_only=True) for rank in range(size)]


class ThreadRanks(Ranks):
    """A rank that is a thread; enough for pure functions of tensors."""

    def __init__(self, rank, size, shared, barrier):
        super().__init__(rank, size)
        self._shared, self._barrier = shared, barrier

    def gather(self, x):
        self._shared[self.rank] = x
        self._barrier.wait()
        found = torch.stack([self._shared[rank] for rank in range(self.size)])
        self._barrier.wait()
        return found

    def _reduce(self, x, how):
        found = self.gather(x)
        return {"SUM": found.sum(0), "MAX": found.amax(0), "MIN": found.amin(0)}[how].to(x.dtype)


def in_threads(size, work):
    """`work(ranks)` in `size` threads; returns what each returned."""
    shared, barrier = {}, threading.Barrier(size)

    def one(rank):
        try:
            return work(ThreadRanks(rank, size, shared, barrier))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def torchrun(*arguments, timeout=300, processes=2):
    """Run the command as a user does; returns the finished process with its text."""
    command = [BIN / "torchrun", "--standalone", "--nproc-per-node", processes, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False)
