"""`sae_lens.SAETrainer`; the dictionary that it saves for inference is read back."""

# pyright: reportMissingImports=false
from collections.abc import Iterator
from tempfile import TemporaryDirectory

import sae_lens
from sae_lens.config import SAETrainerConfig
from torch import Tensor

from peers.job import DECAY, WARMUP, Job, Read, Trained

KINDS = {
    "topk": (sae_lens.TopKTrainingSAE, sae_lens.TopKTrainingSAEConfig),
    "batchtopk": (sae_lens.BatchTopKTrainingSAE, sae_lens.BatchTopKTrainingSAEConfig),
}
DEFAULT_LR = SAETrainerConfig.lr


def train(job: Job, indices: Iterator[Tensor]) -> Trained:
    rows = job.train_rows()
    scale = len(rows[0]) ** 0.5 / float(rows.norm(dim=1).mean())  # the norm that its own scaling brings rows to
    lr = job.lr or DEFAULT_LR
    sae_class, config_class = KINDS[job.kind]
    options = dict(job.options)
    autocast = options.pop("autocast", False)
    sae = sae_class(config_class(d_in=rows.shape[1], d_sae=job.n_latents, k=job.k, **options))
    config = SAETrainerConfig(
        total_training_samples=job.n_steps * job.batch_size,
        train_batch_size_samples=job.batch_size,
        lr=lr,
        lr_end=lr,  # must be set; the constant part of the schedule ignores it
        lr_warm_up_steps=round(WARMUP * job.n_steps),
        lr_decay_steps=round(DECAY * job.n_steps),
        autocast=autocast,
    )
    sae_lens.SAETrainer(config, sae, (rows[i] * scale for i in indices)).fit()
    with TemporaryDirectory() as directory:
        sae.save_inference_model(directory)
        trained = sae_lens.SAE.load_from_disk(directory)

    def read(x: Tensor) -> Read:
        f = trained.encode(x * scale)
        return Read(trained.decode(f) / scale, (f > 0).sum(1))

    return Trained(sae_lens.__version__, lr, read)
