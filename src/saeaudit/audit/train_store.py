"""Train dictionaries on the rows of a store, all of them in one pass over it.

`saeaudit train` holds out the last eighth of the rows, to the nearest end of a document. Processes that share the work
train together; the first of them judges and writes.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from saeaudit.activations import ActivationStore
from saeaudit.artifacts import content_hash, directory_lock
from saeaudit.audit.device import own_device
from saeaudit.audit.one_dictionary import StoreTraining, batch_size, judge, new_run, summary
from saeaudit.audit.stages import Silent, Watcher
from saeaudit.audit.store_inputs import InputBatches, OneInput, fit_statistics, held_out_from, tensors_of
from saeaudit.audit.summed_steps import SummedSteps
from saeaudit.dictionaries import load_dictionary, merge
from saeaudit.distributed import ALONE, Ranks
from saeaudit.errors import ArtifactError, ConfigError, SaeAuditError
from saeaudit.findings import DictionaryRow
from saeaudit.seeds import derive
from saeaudit.training import Callback, CheckpointConfig, WindowedBatches, train_many

# Not the batch size of the training: calibration judges later rows by the first batch, which must not be a few rows.
HELD_OUT_BATCH = 2048


@dataclass(frozen=True)
class Job:
    """One dictionary to train.

    Attributes:
        config: settings.
        out: directory of the dictionary.
        identity: hash of what goes in, kept in the provenance.
        checkpoint: where the state of its run is kept.
        callbacks: told about its start, logs and end.
    """

    config: StoreTraining
    out: Path
    identity: str = ""
    checkpoint: CheckpointConfig | None = None
    callbacks: Sequence[Callback] = ()


@dataclass
class Trained:
    """How each job ended; every one is in one of the two.

    Attributes:
        done: size, fit on held-out rows and cost, by name.
        failed: what closed the others, by name.
    """

    done: dict[str, DictionaryRow] = field(default_factory=dict)
    failed: dict[str, SaeAuditError] = field(default_factory=dict)

    @contextmanager
    def closing(self, name: str) -> Iterator[None]:
        """Record a `SaeAuditError` of the block as the end of one job."""
        try:
            yield
        except SaeAuditError as error:
            self.failed[name] = error


def train_from_store(
    store: Path,
    config: StoreTraining,
    *,
    out: Path,
    watcher: Watcher | None = None,
    callbacks: Sequence[Callback] = (),
    ranks: Ranks = ALONE,
) -> DictionaryRow:
    """Train, calibrate, evaluate and save one dictionary at `out`; see `train_many_from_store`.

    Raises:
        SaeAuditError: what closed the run.
    """
    trained = train_many_from_store(
        store, {out.name: config}, out=out.parent, watcher=watcher, callbacks={out.name: callbacks}, ranks=ranks
    )
    for error in trained.failed.values():
        raise error
    return trained.done[out.name]


def train_many_from_store(
    store: Path,
    configs: Mapping[str, StoreTraining],
    *,
    out: Path,
    watcher: Watcher | None = None,
    callbacks: Mapping[str, Sequence[Callback]] | None = None,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train dictionaries in one pass and save each at `out/name`.

    After a kill, the same call continues: runs from the checkpoints beside their directories, and a dictionary that is
    there already is only read. A run that fails does not disturb the others.

    Args:
        store: directory written by `harvest`.
        configs: settings by name; they must agree in batch size, window and order of the rows.
        out: directory that receives a directory for each name.
        watcher: sees progress.
        callbacks: of the runs, by name.
        ranks: processes that share the work; each must call with the same arguments. Their first error ends all runs.

    Raises:
        ArtifactError: the store is unfinished or broken, has no such site or side (code `unknown-tensor`), or something
            else stands in a dictionary's place (`output-not-empty`).
        EvidenceError: too few rows.
        ConfigError: the settings do not agree.
        ModelError: a device is not there (`device-unavailable`).
    """
    watcher = watcher or Silent()
    for device in {config.device for config in configs.values()}:
        own_device(device)
    opened = ActivationStore(store)
    fit, held_out = np.split(np.arange(opened.n_rows), [held_out_from(opened.document_bounds)])
    for tensor in tensors_of(config.input for config in configs.values()):
        opened.read(tensor, fit[:0])
    jobs, kept, done = {}, {}, {}
    for name, config in configs.items():
        # Named by what goes in, so that a run on another store never continues this one.
        identity = content_hash([opened.made_from, config.model_dump(exclude={"checkpoint_every", "device"})])
        place = out / name
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            done[name] = _read_finished(place, identity)
            continue
        kept[name] = out / f".{name}.training-{identity[:12]}"
        checkpoint = CheckpointConfig(directory=kept[name], every=config.checkpoint_every)
        jobs[name] = Job(config, place, identity, checkpoint, (callbacks or {}).get(name, ()))
    with ExitStack() as locks:
        for directory in kept.values() if ranks.leads else ():
            locks.enter_context(directory_lock(directory))
        watcher.stage("train")
        cards = opened.made_from["models"]
        trained = train_on_rows(opened, jobs, fit, held_out, cards=cards, watcher=watcher, ranks=ranks)
        for name in trained.done if ranks.leads else ():
            shutil.rmtree(kept[name], ignore_errors=True)
    done |= trained.done
    return Trained({name: done[name] for name in configs if name in done}, trained.failed)


def train_on_rows(
    store: ActivationStore,
    jobs: Mapping[str, Job],
    fit: np.ndarray,
    held_out: np.ndarray,
    *,
    cards: Mapping[str, dict[str, Any]],
    watcher: Watcher,
    ranks: Ranks = ALONE,
) -> Trained:
    """Train on the rows `fit`; set thresholds and judge the fit on the rows `held_out`; save.

    Ranks train together; the first one does the rest, and all return what it found.

    Raises:
        ArtifactError: the store has no such site or side (code `unknown-tensor`).
        EvidenceError: there are no rows.
        ConfigError: the settings do not agree (`streams-differ`).
        SaeAuditError: a run of several processes failed; what is trained so far is in the checkpoints.
    """
    trained = Trained()
    if not jobs:
        return trained
    shared = _shared([job.config for job in jobs.values()])
    inputs = frozenset(job.config.input for job in jobs.values())
    rows = WindowedBatches(
        store,
        tensors_of(inputs),
        batch_size(shared, len(fit)),
        seed=derive(shared.order_seed, "batches"),
        rows=fit,
        window_bytes=shared.window_mb << 20,
    )
    statistics, steps, runs = fit_statistics(store, inputs, fit), SummedSteps(watcher), {}
    for name, job in jobs.items():
        with trained.closing(name):
            runs[name] = new_run(
                job.config,
                statistics[job.config.input].result(),
                callbacks=(*job.callbacks, steps.of(name)),
                checkpoint=job.checkpoint,
                ranks=ranks,
            )
    n_steps = max((run.config.n_steps for run in runs.values()), default=0)
    ended = train_many(runs, InputBatches(replace(rows, n_steps=n_steps), inputs))
    if ranks.size > 1 and ended.failed:
        raise next(iter(ended.failed.values()))  # it may have met this rank alone: the others cannot be told
    trained.failed |= ended.failed
    for name, result in ended.done.items():
        merge(result.dictionary, runs[name].grid.latents)
        if not ranks.leads:
            continue
        config, device = jobs[name].config, runs[name].device
        result.dictionary.to(device)  # a merge leaves it on the CPU
        unseen = WindowedBatches(
            store,
            config.input.tensors,
            HELD_OUT_BATCH,
            seed=derive(config.order_seed, "held-out"),
            rows=held_out,
            window_bytes=config.window_mb << 20,
            drop_last=False,
        )
        with trained.closing(name):
            dictionary = judge(result, OneInput(unseen, config.input, device), config, cards=cards)
            dictionary.provenance.training.update(distinct_tokens=len(fit), made_from=jobs[name].identity)
            dictionary.cpu().save(jobs[name].out)
            trained.done[name] = summary(dictionary)
    return _told(trained, ranks)


def _read_finished(out: Path, identity: str) -> DictionaryRow:
    """Return the summary of a dictionary that an earlier call has made.

    Raises:
        ArtifactError: `out` holds something else.
    """
    dictionary = load_dictionary(out) if (out / "config.json").is_file() else None
    if dictionary is None or dictionary.provenance.training.get("made_from") != identity:
        raise ArtifactError(
            f"{out} holds something that was not made by the same command, and nothing is overwritten; choose another "
            "--out, or delete it",
            code="output-not-empty",
        )
    return summary(dictionary)


def _shared(configs: Sequence[StoreTraining]) -> StoreTraining:
    """Return settings that stand for all where they concern the stream.

    Raises:
        ConfigError: they differ there.
    """
    for name in ("batch_size", "window_mb", "order_seed"):
        values = {getattr(config, name) for config in configs}
        if len(values) > 1:
            raise ConfigError(
                f"dictionaries that are trained in one pass share the batches; {name} is {sorted(values)}: give one "
                "value, or train them one by one",
                code="streams-differ",
            )
    return configs[0]


def _told(trained: Trained, ranks: Ranks) -> Trained:
    """Return what the first rank found, on every rank."""
    done = {name: row.model_dump() for name, row in trained.done.items()}
    failed = {name: (str(error), error.code) for name, error in trained.failed.items()}
    done, failed = ranks.gather_json((done, failed))[0]
    if ranks.leads:
        return trained
    return Trained(
        {name: DictionaryRow(**row) for name, row in done.items()},
        {name: SaeAuditError(text, code=code) for name, (text, code) in failed.items()},
    )
