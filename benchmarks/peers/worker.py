"""Train one dictionary with one library, and stop after every chunk of steps until the parent says go on.

    python -m peers.worker '{"library": "sparsify", "kind": "topk", ...}'

A library trains by its own training function. It asks for its batches itself, so the stop is in the source of batches,
and the time of a chunk is all that the library does between two stops.
"""

import importlib
import json
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from peers.job import Job, Trained
from peers.parent import Parent

READ_ROWS = 2048


def paused(job: Job, parent: Parent) -> Iterator[Tensor]:
    for step, indices in enumerate(job.indices()):
        if step % job.chunk == 0:
            parent.pause()
        yield indices


@torch.no_grad()
def fit(trained: Trained, rows: Tensor) -> dict[str, float]:
    """Return squared error over variance of `rows`, and the mean number of active latents."""
    error, n_active = 0.0, 0
    for x in rows.split(READ_ROWS):
        read = trained.read(x)
        error += float((x.double() - read.x_hat.double()).square().sum())
        n_active += int(read.n_active.sum())
    variance = float((rows.double() - rows.double().mean(0)).square().sum())
    return {"fvu": error / variance, "l0": n_active / len(rows)}


def main() -> None:
    parent, job = Parent(), Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    library = importlib.import_module(f"peers.train_{job.library}")
    trained = library.train(job, paused(job, parent))
    parent.pause()
    found = fit(trained, job.held_out_rows())
    parent.send({"version": trained.version, "lr": trained.lr, **found})


if __name__ == "__main__":
    main()
