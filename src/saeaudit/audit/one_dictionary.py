"""One dictionary of a store: its settings, its run, and what its fit on held-out rows is worth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from saeaudit.audit.device import own_device
from saeaudit.audit.store_inputs import Input
from saeaudit.dictionaries import COUNTING, Dictionary, DictionaryConfig, Kind, Penalty, Provenance, Rule, build, shard
from saeaudit.distributed import ALONE, Ranks, Selection, grid_of
from saeaudit.findings import DictionaryRow
from saeaudit.seeds import derive
from saeaudit.statistics import SiteStatistics
from saeaudit.training import (
    Callback,
    CheckpointConfig,
    EarlyStop,
    Run,
    TrainConfig,
    TrainResult,
    calibrate,
    evaluate,
)

# A run is logged about this often, but a short one more seldom: a log with gradient shares costs half a step.
_LOGS, _MIN_LOG_STEPS = 100, 10


class StoreTraining(BaseModel):
    """What is trained, on which tensors of the store, for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str
    kind: Kind = "diff"
    side: str = Field(default="tuned", description="which tuned model, for a store of several")
    expansion: int = Field(default=4, ge=1, description="latents per residual dimension")
    sparsity: Rule = Field(default="batchtopk", description="the rule that chooses the active latents")
    k: int = Field(default=16, ge=1, description="mean active latents a token, of the rules that fix it")
    penalty: Penalty | None = Field(default=None, description="of the other rules; None means the rule's default")
    n_samples: int = Field(default=200_000, ge=1, description="rows seen in training, repetitions included")
    batch_size: int = Field(default=2048, ge=1)
    lr: float | None = Field(default=None, gt=0)
    early_stop: EarlyStop | None = Field(default=None, description="end when the fit stops improving")
    checkpoint_every: int = Field(default=500, ge=1)
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    window_mb: int = Field(default=1024, ge=1, description="memory for rows that wait their turn, in MB")
    latent_shards: int = Field(default=1, ge=1, description="processes that divide the latents of a dictionary")
    selection: Selection = Field(
        default="global", description="the rows of a batch compete over all processes, or within one"
    )
    seed: int = Field(default=0, ge=0, description="of the start weights")
    order_seed: int = Field(
        default=0, ge=0, description="of the order of the rows, one for all that are trained at once"
    )

    @property
    def input(self) -> Input:
        """What the dictionary reads."""
        return Input(self.site, self.kind, self.side)


def new_run(
    config: StoreTraining,
    statistics: SiteStatistics,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: CheckpointConfig | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Return the run of a fresh dictionary on rows with these statistics.

    Raises:
        ConfigError: the processes cannot divide the dictionary as asked (`not-shardable`, `ranks-not-divisible`).
        ModelError: the device is not there (`device-unavailable`).
    """
    shape = DictionaryConfig(
        kind=config.kind,
        n_latents=config.expansion * statistics.mean.shape[-1],
        sparsity=config.sparsity,
        k=config.k if config.sparsity in COUNTING else None,
        penalty=config.penalty,
    )
    dictionary = build(shape, statistics, seed=derive(config.seed, "dictionary", config.site, config.kind))
    grid = grid_of(ranks, latent_shards=config.latent_shards, selection=config.selection)
    shard(dictionary, grid.latents)
    dictionary.to(own_device(config.device))
    n_steps = math.ceil(config.n_samples / batch_size(config, statistics.count))
    return Run(
        dictionary,
        TrainConfig(n_steps=n_steps, lr=config.lr, early_stop=config.early_stop, log_every=log_every(n_steps)),
        reads=config.input.name,
        callbacks=callbacks,
        checkpoint=checkpoint,
        grid=grid,
    )


def log_every(n_steps: int) -> int:
    """Return the steps between two logs of a run.

    >>> log_every(98), log_every(20_000)
    (10, 200)
    """
    return max(_MIN_LOG_STEPS, n_steps // _LOGS)


def batch_size(config: StoreTraining, n_rows: int) -> int:
    """Return the rows of a batch: those asked for, or all where there are fewer."""
    return min(config.batch_size, n_rows)


def judge(
    result: TrainResult, held_out: Iterable[Tensor], config: StoreTraining, *, cards: Mapping[str, dict[str, Any]]
) -> Dictionary:
    """Set the threshold on held-out rows and write their fit into the provenance.

    Args:
        result: of the training.
        held_out: batches in random order that can be iterated twice, on the dictionary's device.
        config: settings.
        cards: model cards by side.

    Raises:
        EvidenceError: there are no held-out rows.
    """
    dictionary = result.dictionary
    calibration = calibrate(dictionary, held_out)
    report = evaluate(dictionary, held_out)
    dictionary.provenance = Provenance(
        site=config.site,
        cards=dict(cards),
        training={
            "tokens": result.n_tokens,
            "seconds": result.seconds,
            "stopped": result.stopped,
            "fvu": report.fvu,
            "fvu_delta": report.fvu_delta,
            "l0": calibration.l0,
            "dead_share": report.dead_share,
        },
        threshold_source=dictionary.provenance.threshold_source,
    )
    return dictionary


def summary(dictionary: Dictionary) -> DictionaryRow:
    """Return size, fit on held-out rows and cost of a dictionary that was judged (FVU: 0 is perfect)."""
    found = dictionary.provenance.training
    return DictionaryRow(
        site=str(dictionary.provenance.site),
        kind=dictionary.kind,
        n_latents=dictionary.n_latents,
        k=dictionary.config.k,
        fvu=found["fvu"],
        l0=found["l0"],
        dead_share=found["dead_share"],
        n_tokens=found["tokens"],
        seconds=found["seconds"],
        fvu_delta=found["fvu_delta"],
    )
