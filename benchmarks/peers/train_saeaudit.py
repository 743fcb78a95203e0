"""`saeaudit.training.train`; a BatchTopK threshold is calibrated on rows of the training data afterwards."""

from collections.abc import Iterator

from torch import Tensor

import saeaudit
from peers.job import DECAY, WARMUP, Job, Read, Trained
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import TrainConfig, calibrate
from saeaudit.training import train as train_dictionary
from saeaudit.training.schedule import default_lr

N_CALIBRATION = 32768


def train(job: Job, indices: Iterator[Tensor]) -> Trained:
    rows = job.train_rows()
    fitter = StatisticsFitter()
    for x in rows.split(N_CALIBRATION):
        fitter.update(x)
    config = DictionaryConfig(kind="sae", n_latents=job.n_latents, k=job.k, sparsity=job.kind, **job.options)
    dictionary = build(config, fitter.result(), seed=job.seed)
    lr = job.lr or default_lr(job.n_latents)
    settings = TrainConfig(n_steps=job.n_steps, lr=lr, warmup=WARMUP, decay=DECAY)
    train_dictionary(dictionary, (rows[i] for i in indices), settings)
    if job.kind == "batchtopk":
        calibrate(dictionary, [rows[:N_CALIBRATION]])

    def read(x: Tensor) -> Read:
        code = dictionary.encode(x)
        return Read(dictionary.decode(code), (code.values > 0).sum(1))

    return Trained(saeaudit.__version__, lr, read)
