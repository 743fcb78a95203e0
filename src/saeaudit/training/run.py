"""One run: a dictionary, its optimiser and its counters, moved on by one batch at a time; one for every kind."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from saeaudit.dictionaries import Dictionary, EncodeGemm, Forward, resolve_precision
from saeaudit.distributed import WHOLE, Grid
from saeaudit.errors import ConfigError
from saeaudit.training.callbacks import Callback
from saeaudit.training.checkpoint import open_checkpoints, save_checkpoint
from saeaudit.training.config import CheckpointConfig, TrainConfig
from saeaudit.training.dead import FiringRecord, dead_after_rows
from saeaudit.training.divergence import require_finite
from saeaudit.training.gradients import backward, clip, gradient_shares
from saeaudit.training.losses import terms_for
from saeaudit.training.memory import memory_errors
from saeaudit.training.optimiser import adam, set_rate
from saeaudit.training.schedule import default_lr, lr_factor
from saeaudit.training.sharing import own_rows
from saeaudit.training.state import RunState
from saeaudit.training.terms import Term

Stopped = Literal["n_steps", "early-stop"]


@dataclass(frozen=True)
class TrainResult:
    """What a run made; `fvu`, `l0` and `dead_share` are those of the last log window, by the training rule.

    Attributes:
        dictionary: the trained dictionary (the object that was passed in).
        fvu: 0 is perfect, 1 is predicting the mean.
        l0: active latents a row.
        dead_share: share of latents dead at the end.
        n_steps: steps done, those before a resume included.
        n_tokens: rows seen.
        seconds: time spent in its steps.
        stopped: why it ended: all steps were done, or the fit no longer improved.
    """

    dictionary: Dictionary
    fvu: float
    l0: float
    dead_share: float
    n_steps: int
    n_tokens: int
    seconds: float
    stopped: Stopped


class Run:
    """A dictionary in training. Nothing of a run depends on the runs beside it.

    Args:
        dictionary: made by `build`; trained in place.
        config: settings.
        reads: name of its tensor in batches that are mappings.
        terms: summands of the loss; None means `terms_for(dictionary.config)`.
        callbacks: told about start, logs, checkpoints and end.
        checkpoint: where the state is kept; needs batches that can start in the middle.
        resume: continue from the newest checkpoint if there is one.
        grid: ranks that divide every step; all are given the same batches. The dictionary of a grid that divides
            latents has been through `shard`. The first rank alone tells the callbacks.

    Attributes:
        state: counters.
        stored: the newest checkpoint, or None.
    """

    def __init__(
        self,
        dictionary: Dictionary,
        config: TrainConfig,
        *,
        reads: str = "",
        terms: Sequence[Term] | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: CheckpointConfig | None = None,
        resume: bool = True,
        grid: Grid = WHOLE,
    ) -> None:
        self.dictionary, self.config, self.reads = dictionary, config, reads
        self.terms = tuple(terms_for(dictionary.config) if terms is None else terms)
        self.callbacks, self.resume, self.grid = tuple(callbacks) if grid.world.leads else (), resume, grid
        self.checkpoint = checkpoint and checkpoint.of_shard(grid.latents)
        self.device = dictionary.coder.threshold.device
        self.state = RunState(FiringRecord(dictionary.n_latents, device=self.device), ends_at=config.n_steps)
        self.stored: Path | None = None
        self._peak_lr = config.lr or default_lr(dictionary.config.n_latents)
        self._optimiser = adam(dictionary.coder, config)
        self._gemm = EncodeGemm(resolve_precision(config.precision, self.device))

    @property
    def done(self) -> bool:
        return self.state.step >= self.state.ends_at

    def start(self, *, seekable: bool) -> None:
        """Continue from the newest checkpoint, if there is one, and tell the callbacks.

        Args:
            seekable: whether the batches can start in the middle.

        Raises:
            ConfigError: checkpoints were asked of batches that cannot ("batches-not-resumable").
            ArtifactError: the checkpoint is of another run ("resume-mismatch") or broken.
        """
        if self.checkpoint and not seekable:
            raise ConfigError(
                "checkpoints were asked, but these batches cannot start at a given step, so the run could not be "
                "continued; pass batches with `starting_at(step)` (tensor_batches has it) or no checkpoint",
                code="batches-not-resumable",
            )
        self.dictionary.requires_grad_(True).train()
        if self.checkpoint:
            self.stored = open_checkpoints(
                self.dictionary,
                self._optimiser,
                self.state,
                self.config,
                self.checkpoint,
                resume=self.resume,
                grid=self.grid,
            )
        info = {
            "n_steps": self.config.n_steps,
            "first_step": self.state.step,
            "n_latents": self.dictionary.config.n_latents,
        }
        for callback in self.callbacks:
            callback.on_start(info)

    def step(self, x: Tensor) -> None:
        """Train on one raw batch "batch ... d_model" on the run's device.

        Raises:
            InputError: it has another shape than the dictionary.
            ConfigError: its rows cannot be divided among the ranks ("batch-not-divisible").
            NumericsError: loss or gradient is not finite ("training-diverged"); the weights are as before the step.
            ResourceError: the step does not fit into memory ("out-of-memory").
        """
        began = time.perf_counter()
        config, coder, number = self.config, self.dictionary.coder, self.state.step + 1
        dead_after = config.dead_after or dead_after_rows(config.n_steps * len(x))
        logged = number >= self.state.ends_at or number % config.log_every == 0
        rows = own_rows(x, self.grid.rows)
        with memory_errors(coder, len(rows), last_checkpoint=self.stored):
            forward, losses = self._losses(rows, dead_after)
            shares = gradient_shares(losses, coder, self.grid) if logged and len(losses) > 1 else {}
            grad_norm = backward(torch.stack(list(losses.values())).sum(), coder, self.grid)
            clip(coder, config.clip_norm, grad_norm)
            require_finite(
                losses,
                grad_norm,
                x,
                step=self.state.step,
                keep_in=self.checkpoint and self.checkpoint.directory,
                last_checkpoint=self.stored,
                world=self.grid.world,
            )
            lr = self._update()
        self.state.add(forward, losses, grad_norm=grad_norm, lr=lr)
        self.state.seconds += time.perf_counter() - began
        if logged:
            self._log(dead_after, shares)
        if self.checkpoint and (self.done or self.state.step % self.checkpoint.every == 0):
            self._store(self.checkpoint)

    def finish(self) -> TrainResult:
        """Bring the dictionary to its canonical form, freeze it, and write the summary into its provenance."""
        coder, state = self.dictionary.coder, self.state
        coder.canonicalise()
        self.dictionary.eval().requires_grad_(False)
        stopped: Stopped = "n_steps" if state.step == self.config.n_steps else "early-stop"
        summary = {name: state.metrics[name] for name in ("step", "n_tokens", "seconds", "fvu", "l0", "dead_share")}
        self.dictionary.provenance = replace(
            self.dictionary.provenance,
            training=summary | {"stopped": stopped},
            threshold_source=coder.sparsity.threshold_source,
        )
        for callback in self.callbacks:
            callback.on_end(state.metrics)
        return TrainResult(
            self.dictionary,
            fvu=summary["fvu"],
            l0=summary["l0"],
            dead_share=summary["dead_share"],
            n_steps=state.step,
            n_tokens=state.firing.n_rows,
            seconds=summary["seconds"],
            stopped=stopped,
        )

    def fail(self, error: BaseException) -> None:
        """Tell the callbacks that the run ends here."""
        for callback in self.callbacks:
            callback.on_fail(error)

    def _losses(self, x: Tensor, dead_after: int) -> tuple[Forward, Mapping[str, Tensor]]:
        """Run the forward; return it with each term's value."""
        step, coder = self.state.step, self.dictionary.coder
        coder.sparsity.at_step(step)
        forward = coder(self.dictionary.checked(x), gemm=self._gemm, grid=self.grid)
        dead = self.state.firing.dead(dead_after)
        progress = (step + 1) / self.config.n_steps
        return forward, {term.name: term(forward, dead, progress) for term in self.terms}

    def _update(self) -> float:
        """Move the weights; return their learning rate."""
        lr = self._peak_lr * lr_factor(self.state.step, self.config, ends_at=self.state.ends_at)
        set_rate(self._optimiser, lr)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.dictionary.coder.project_weights()
        return lr

    def _log(self, dead_after: int, shares: Mapping[str, float]) -> None:
        metrics = self.state.log(dead_after, shares, self.grid.latents)
        for callback in self.callbacks:
            callback.on_log(metrics)
        if not self.done:
            self._judge(metrics["fvu"])

    def _store(self, to: CheckpointConfig) -> None:
        """Write a checkpoint; once it is complete on all ranks, tell the callbacks."""
        if self.grid.rows.leads:
            self.stored = save_checkpoint(self.dictionary, self._optimiser, self.state, self.config, to)
        self.grid.world.barrier()
        if self.stored:
            for callback in self.callbacks:
                callback.on_checkpoint(self.state.step, self.stored)

    def _judge(self, fvu: float) -> None:
        """Begin the fall of the rate early where patience is out."""
        config, state = self.config, self.state
        rule, share = config.early_stop, state.step / config.n_steps
        falls = state.ends_at < config.n_steps or share >= 1 - config.decay
        if rule is None or falls or share <= max(rule.after, config.warmup):
            return
        if state.patience.exhausted(fvu, rule):
            state.ends_at = state.step + round(config.decay * config.n_steps)
