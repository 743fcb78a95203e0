"""The training loop: one stream of batches for one run or many. It sees tensors and never a model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from saeaudit.dictionaries import Dictionary
from saeaudit.distributed import WHOLE, Grid
from saeaudit.errors import ConfigError, EvidenceError, SaeAuditError
from saeaudit.training.batches import ResumableBatches
from saeaudit.training.callbacks import Callback
from saeaudit.training.config import CheckpointConfig, TrainConfig
from saeaudit.training.run import Run, TrainResult
from saeaudit.training.terms import Term

Batch = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class TrainedMany:
    """How each run ended; every run is in one of the two.

    Attributes:
        done: results by name.
        failed: what closed the others, by name.
    """

    done: Mapping[str, TrainResult]
    failed: Mapping[str, SaeAuditError]


def train(
    dictionary: Dictionary,
    batches: Iterable[Tensor],
    config: TrainConfig,
    *,
    terms: Sequence[Term] | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: CheckpointConfig | None = None,
    resume: bool = True,
    grid: Grid = WHOLE,
) -> TrainResult:
    """Train `dictionary` in place on raw activations.

    Args:
        dictionary: made by `build`.
        batches: raw batches of the dictionary's shape; differences for a Diff-SAE.
        config: settings.
        terms: summands of the loss; None means `terms_for(dictionary.config)`.
        callbacks: told about start, logs and end.
        checkpoint: where the state is kept; needs batches that can start in the middle.
        resume: continue from the newest checkpoint if there is one.
        grid: ranks that divide every step; each calls with the same arguments (see `Run`).

    Raises:
        InputError: a batch has another shape than the dictionary.
        EvidenceError: the batches ended before `config.n_steps` ("stream-exhausted").
        NumericsError: loss or gradient is not finite ("training-diverged").
        ConfigError: checkpoints were asked of batches that cannot start in the middle ("batches-not-resumable").
        ArtifactError: the checkpoint is of another run ("resume-mismatch") or broken.
        ResourceError: a step does not fit into memory ("out-of-memory"), or a checkpoint not onto the disk.
    """
    run = Run(dictionary, config, terms=terms, callbacks=callbacks, checkpoint=checkpoint, resume=resume, grid=grid)
    ended = train_many({"": run}, batches)
    for error in ended.failed.values():
        raise error
    return ended.done[""]


def train_many(runs: Mapping[str, Run], batches: Iterable[Batch]) -> TrainedMany:
    """Train many dictionaries on one stream: each batch is read once and handed to every run.

    A run ends as it would alone, bit for bit on a CPU. One that raises a `SaeAuditError` is closed with it and the
    others go on; if the stream itself raises one or ends, that closes every run that still needs it. Runs that continue
    from checkpoints of different steps wait for the one that is furthest back. Where ranks divide the steps, the first
    error ends all runs.

    Args:
        runs: by name; each with its own settings and number of steps.
        batches: a tensor goes to all runs, a mapping is routed by `Run.reads`.
    """
    sweep = _Sweep(runs)
    try:
        sweep.start(seekable=isinstance(batches, ResumableBatches))
        try:
            stream = _numbered(batches, sweep.first_step)
            while sweep.going and (item := next(stream, None)):
                sweep.step(*item)
            sweep.exhausted()
        except SaeAuditError as error:
            sweep.fail_all(error)
    except BaseException as error:
        sweep.fail_all(error)
        raise
    return TrainedMany(sweep.done, sweep.failed)


class _Sweep:
    """The runs that go on, and how the others ended."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self.going = dict(runs)
        self.done: dict[str, TrainResult] = {}
        self.failed: dict[str, SaeAuditError] = {}

    @property
    def first_step(self) -> int:
        return min((run.state.step for run in self.going.values()), default=0)

    def start(self, *, seekable: bool) -> None:
        for name, run in list(self.going.items()):
            with self._closing(name, run):
                run.start(seekable=seekable)

    def step(self, step: int, batch: Batch) -> None:
        moved: dict[tuple[str, torch.device], Tensor] = {}
        for name, run in list(self.going.items()):
            if run.state.step != step:
                continue
            with self._closing(name, run):
                key = (run.reads, run.device)
                if key not in moved:
                    moved[key] = _routed(batch, run.reads).to(run.device)
                run.step(moved[key])

    def exhausted(self) -> None:
        for name, run in list(self.going.items()):
            with self._closing(name, run):
                raise EvidenceError(
                    f"{run.config.n_steps} steps were asked, the batches ended after {run.state.step}; harvest more "
                    "rows, ask for more epochs, or lower n_steps",
                    code="stream-exhausted",
                )

    def fail_all(self, error: BaseException) -> None:
        """Close every run; what is not a `SaeAuditError` goes on to the caller."""
        for name, run in self.going.items():
            if isinstance(error, SaeAuditError):
                self.failed[name] = error
            run.fail(error)
        self.going.clear()

    @contextmanager
    def _closing(self, name: str, run: Run) -> Iterator[None]:
        """Close a run that is done after the block, or that raises in it."""
        try:
            yield
            if run.done:
                self.done[name] = run.finish()
                del self.going[name]
        except SaeAuditError as error:
            self.failed[name] = error
            del self.going[name]
            run.fail(error)
            if run.grid.world.size > 1:
                raise  # ranks could not tell which runs the others go on with


def _numbered(batches: Iterable[Batch], first: int) -> Iterator[tuple[int, Batch]]:
    stream = batches.starting_at(first) if isinstance(batches, ResumableBatches) else batches
    return enumerate(stream, first)


def _routed(batch: Batch, name: str) -> Tensor:
    if isinstance(batch, Tensor):
        return batch
    if name not in batch:
        raise ConfigError(
            f"a run reads {name!r}, the batches have {', '.join(map(repr, batch))}; set `reads` of the run to one of "
            "them",
            code="unknown-input",
        )
    return batch[name]
