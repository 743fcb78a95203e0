"""Settings of a training run and of its checkpoints."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from saeaudit.dictionaries import Precision
from saeaudit.distributed import Ranks


class EarlyStop(BaseModel):
    """When a run may end before its last step: the logged FVU no longer falls.

    The rate never stays at its peak to the end: once patience is out, the fall that ends every run begins at once and
    takes its usual `decay * n_steps` steps, in which the fit still gains. Logs during rise and fall do not count.

    Attributes:
        patience: logs in a row (each over `log_every` steps) without improvement.
        min_improvement: relative fall of the FVU below the best so far that counts as one.
        after: share of the steps before which nothing is judged; it must outlast annealing of `k` and penalties that
            still rise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: int = Field(default=5, ge=1)
    min_improvement: float = Field(default=0.01, ge=0, lt=1)
    after: float = Field(default=0.1, ge=0, le=1)


class TrainConfig(BaseModel):
    """Settings of `train`; frozen, unknown fields are refused.

    Attributes:
        n_steps: optimiser steps.
        lr: peak learning rate of the weights; None means 2e-4 / sqrt(n_latents / 2**14) (arXiv 2406.04093, section 2).
        bias_lr_factor: rate of the biases over `lr`; None means 1 where latents compete for places, and elsewhere the
            square root of the input width (both sides of a crosscoder together).
        betas: decay rates of Adam's moments; None means (0.9, 0.999).
        warmup: share of the steps in which the rate rises linearly.
        decay: share of the steps, at the end, in which it falls linearly to 0.
        clip_norm: largest norm of the whole gradient.
        dead_after: rows without firing after which a latent is dead; None means min(10 million, 5 % of the run).
        precision: of the encoder product where latents compete; "auto" is bfloat16 where the hardware multiplies it
            faster. Rules with a fixed threshold take the exact product.
        log_every: steps between two logs, each averaged over the steps since the last.
        early_stop: end the run when the fit stops improving; None means after `n_steps`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_steps: int = Field(ge=1)
    lr: float | None = Field(default=None, gt=0)
    bias_lr_factor: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] | None = None
    warmup: float = Field(default=0.05, ge=0, le=1)
    decay: float = Field(default=0.2, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    dead_after: int | None = Field(default=None, ge=1)
    precision: Precision = "auto"
    log_every: int = Field(default=50, ge=1)
    early_stop: EarlyStop | None = None


class CheckpointConfig(BaseModel):
    """Where and how often the whole state of a run is written.

    Attributes:
        directory: receives `step-<n>` directories.
        every: steps between two checkpoints; the last step is always written.
        keep: number of checkpoints kept.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directory: Path
    every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)

    def of_shard(self, latents: Ranks) -> "CheckpointConfig":
        """Return where a rank that holds some of the latents keeps its part."""
        if latents.size == 1:
            return self
        return self.model_copy(update={"directory": self.directory / f"shard-{latents.rank}-of-{latents.size}"})
