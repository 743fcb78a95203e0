"""`dictionary_learning.training.trainSAE`; the dictionary that it saves is read back.

The threshold of BatchTopK is first set at step 1,000 by default, so that a shorter run has none; here it is set from
the end of the rise of the learning rate on.
"""

# pyright: reportMissingImports=false
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from dictionary_learning.dictionary import Dictionary
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE
from torch import Tensor

from peers.job import DECAY, WARMUP, Job, Read, Trained

KINDS = {"topk": (TopKTrainer, AutoEncoderTopK), "batchtopk": (BatchTopKTrainer, BatchTopKSAE)}


def train(job: Job, indices: Iterator[Tensor]) -> Trained:
    rows = job.train_rows()
    scale = 1 / float(rows.square().sum(1).mean().sqrt())  # the norm that its own scaling brings rows to
    trainer, dictionary = KINDS[job.kind]
    warmup = round(WARMUP * job.n_steps)
    config = {
        "trainer": trainer,
        "activation_dim": rows.shape[1],
        "dict_size": job.n_latents,
        "k": job.k,
        "layer": 0,
        "lm_name": "none",
        "lr": job.lr,
        "steps": job.n_steps,
        "warmup_steps": warmup,
        "decay_start": round((1 - DECAY) * job.n_steps),
        "threshold_start_step": warmup,
        "seed": job.seed,
        "device": "cpu",
        **job.options,
    }
    with TemporaryDirectory() as directory:
        trainSAE((rows[i] * scale for i in indices), [config], steps=job.n_steps, save_dir=directory, device="cpu")
        path = Path(directory) / "trainer_0"
        lr = json.loads((path / "config.json").read_text())["trainer"]["lr"]
        trained: Dictionary = dictionary.from_pretrained(path / "ae.pt")

    def read(x: Tensor) -> Read:
        f = trained.encode(x * scale)
        return Read(trained.decode(f) / scale, (f > 0).sum(1))

    return Trained(version("dictionary-learning"), lr, read)
