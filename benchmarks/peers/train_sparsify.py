"""`sparsify.Trainer`; TopK is its only rule. Its default optimiser has no schedule, `options` may choose Adam.

The trainer reads activations from a hooked language model. Here the model is a table of the rows and a token is a row
number, so all that the model costs is to look rows up, as every other library does too.
"""

# pyright: reportMissingImports=false
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn

from peers.job import WARMUP, Job, Read, Trained


class RowTable(nn.Module):
    """As much of a language model as the trainer touches; its block puts out the rows that the tokens name."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.block = nn.Embedding.from_pretrained(rows)
        self.device = rows.device
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    @property
    def base_model(self) -> nn.Module:
        return self

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.block(input_ids)


class Sequences:
    """A data set of one sequence a batch: its tokens are the row numbers of the batch."""

    def __init__(self, indices: Iterator[Tensor], n_steps: int) -> None:
        self._indices, self._n_steps = indices, n_steps

    def __len__(self) -> int:
        return self._n_steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        return {"input_ids": next(self._indices)}


def train(job: Job, indices: Iterator[Tensor]) -> Trained:
    coder = SparseCoderConfig(num_latents=job.n_latents, k=job.k)
    with TemporaryDirectory() as directory:
        config = TrainConfig(
            coder,
            batch_size=1,
            lr=job.lr,
            lr_warmup_steps=round(WARMUP * job.n_steps),
            hookpoints=["block"],
            init_seeds=[job.seed],
            log_to_wandb=False,
            save_dir=directory,
            **job.options,
        )
        trainer = Trainer(config, Sequences(indices, job.n_steps), RowTable(job.train_rows()))
        trainer.fit()
        lr = trainer.optimizers[0].param_groups[0].get("initial_lr") or trainer.optimizers[0].param_groups[0]["lr"]
        sae = SparseCoder.load_from_disk(Path(directory) / "unnamed" / "block")

    def read(x: Tensor) -> Read:
        encoded = sae.encode(x)
        return Read(sae.decode(encoded.top_acts, encoded.top_indices), (encoded.top_acts > 0).sum(1))

    return Trained(version("eai-sparsify"), lr, read)
