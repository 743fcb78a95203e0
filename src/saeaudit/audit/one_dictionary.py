"""Train one dictionary on a store of activations, without an audit around it.

The last eighth of the rows is held out. Rows are in document order, so this cuts at most one document in two.
"""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from saeaudit.activations import BASE, ActivationStore, tensor_name
from saeaudit.artifacts import content_hash, directory_lock
from saeaudit.audit.stages import Silent, Watcher
from saeaudit.dictionaries import Dictionary, DictionaryConfig, Kind, Provenance, build
from saeaudit.errors import ArtifactError, EvidenceError
from saeaudit.findings import DictionaryRow
from saeaudit.seeds import derive, torch_generator
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import CheckpointConfig, TrainConfig, TrainResult, calibrate, evaluate, tensor_batches, train

HELD_OUT = 1 / 8
MIN_HELD_OUT = 16


class StoreTraining(BaseModel):
    """What is trained, on which tensors of the store, for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    kind: Kind = "diff"
    side: str = Field(default="tuned", description="which tuned model, for a store of several")
    expansion: int = Field(default=4, ge=1, description="latents per residual dimension")
    k: int = Field(default=16, ge=1, description="mean active latents a token")
    n_samples: int = Field(default=200_000, ge=1, description="rows seen in training, repetitions included")
    batch_size: int = Field(default=2048, ge=1)
    lr: float | None = Field(default=None, gt=0)
    checkpoint_every: int = Field(default=500, ge=1)
    seed: int = Field(default=0, ge=0)


def train_from_store(store: Path, config: StoreTraining, *, out: Path, watcher: Watcher | None = None) -> DictionaryRow:
    """Train, calibrate, evaluate and save a dictionary at `out`; continue from a checkpoint beside it after a kill.

    Args:
        store: directory written by `harvest`.
        config: site, kind and sizes.
        out: directory of the dictionary.
        watcher: sees progress.

    Returns:
        The dictionary's size, fit on the held-out rows (FVU: 0 is perfect, 1 is predicting the mean) and cost.

    Raises:
        ArtifactError: the store is unfinished or broken, or has no such site or side (code `unknown-tensor`).
        EvidenceError: too few rows.
        NumericsError: the rows do not vary, or training diverged.
    """
    watcher = watcher or Silent()
    opened = ActivationStore(store)
    # Named by what goes in, so that a run on another store never continues this one.
    made_from = content_hash([opened.made_from, config.model_dump(exclude={"checkpoint_every"})])
    checkpoints = out.parent / f".{out.name}.training-{made_from[:12]}"
    with directory_lock(checkpoints):
        watcher.stage("read")
        fit, held_out = _split(_rows(opened, config), config.seed)
        watcher.stage("train")
        dictionary, result = _train(fit, config, checkpoints, watcher)
        watcher.stage("evaluate")
        calibration = calibrate(dictionary, held_out.split(config.batch_size))
        report = evaluate(dictionary, held_out.split(config.batch_size))
        dictionary.provenance = Provenance(
            site=config.site,
            cards=opened.made_from["models"],
            training={"tokens": result.n_tokens, "distinct_tokens": len(fit), "seconds": result.seconds}
            | {"fvu": report.fvu},
            threshold_source="calibrated",
        )
        dictionary.save(out)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return DictionaryRow(
        site=config.site,
        kind=config.kind,
        n_latents=dictionary.n_latents,
        k=config.k,
        fvu=report.fvu,
        l0=calibration.l0,
        dead_share=report.dead_share,
        n_tokens=result.n_tokens,
        seconds=result.seconds,
        fvu_delta=report.fvu_delta,
    )


def _train(fit: Tensor, config: StoreTraining, checkpoints: Path, watcher: Watcher) -> tuple[Dictionary, TrainResult]:
    fitter = StatisticsFitter()
    for block in fit.split(config.batch_size):
        fitter.update(block)
    shape = DictionaryConfig(kind=config.kind, n_latents=config.expansion * fit.shape[-1], k=config.k)
    dictionary = build(shape, fitter.result(), seed=derive(config.seed, "dictionary", config.site, config.kind))
    batch = min(config.batch_size, len(fit))
    n_steps = math.ceil(config.n_samples / batch)
    result = train(
        dictionary,
        tensor_batches(fit, batch, seed=derive(config.seed, "batches", config.site), n_steps=n_steps),
        TrainConfig(n_steps=n_steps, lr=config.lr),
        callbacks=(_Steps(watcher, n_steps),),
        checkpoint=CheckpointConfig(directory=checkpoints, every=config.checkpoint_every),
    )
    return dictionary, result


def _split(x: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return (rows to train on, shuffled held-out rows).

    Raises:
        EvidenceError: too few rows for both.
    """
    n_held_out = int(len(x) * HELD_OUT)
    if n_held_out < MIN_HELD_OUT:
        raise EvidenceError(
            f"the store has {len(x)} rows, of which an eighth is held out; at least {MIN_HELD_OUT * 8} are needed, "
            "harvest more text",
            code="too-few-rows",
        )
    order = torch.randperm(n_held_out, generator=torch_generator(seed, "held-out"))
    return x[:-n_held_out], x[-n_held_out:][order]


class _Steps:
    """Hands the training loop's steps to the watcher."""

    def __init__(self, watcher: Watcher, total: int) -> None:
        self._watcher, self._total = watcher, total

    def on_start(self, info: Mapping[str, float | int]) -> None:
        self._watcher.progress(int(info["first_step"]), self._total)

    def on_log(self, metrics: Mapping[str, float | int]) -> None:
        self._watcher.progress(int(metrics["step"]), self._total)

    def on_end(self, metrics: Mapping[str, float | int]) -> None:
        self._watcher.progress(self._total, self._total)


def _rows(store: ActivationStore, config: StoreTraining) -> Float[Tensor, "row *side d_model"]:
    base, tuned = tensor_name(config.site, BASE), tensor_name(config.site, config.side)
    absent = [name for name in (base, tuned) if name not in store.tensors]
    if absent:
        raise ArtifactError(
            f"the store {store.directory} has no {' and no '.join(absent)}; it has {', '.join(store.tensors)}",
            code="unknown-tensor",
        )
    if config.kind == "sae":
        return store.read(base)
    delta = store.read(tuned)
    if config.kind == "diff":
        return delta
    h = store.read(base)
    return torch.stack([h, h + delta], dim=1)
