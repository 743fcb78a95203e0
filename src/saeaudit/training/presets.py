"""Published recipes by name, in our scaling; and where each departs from its source.

Sources scale x to a mean of |x|^2 = d (width) or 1; ours is d. Lengths (thresholds, bandwidths) of the latter are
multiplied by sqrt(d), as is the rate at which Adam moves biases, and penalties of a count by d. Common departures:
statistics are those of the harvest, `b_dec` starts at the mean (no geometric median), decoder rows start on the sphere
with the encoder as their copy, and a crosscoder's sides share one scale.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from saeaudit.dictionaries import (
    Anneal,
    CrosscoderConfig,
    DictionaryConfig,
    JumpReluConfig,
    Penalty,
    PublishedConfig,
)
from saeaudit.errors import ConfigError
from saeaudit.statistics import SiteStatistics
from saeaudit.training.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A recipe, ready for `build` and `train`.

    Attributes:
        source: where the numbers stand.
        dictionary: kind, width, sparsity, loss.
        train: optimiser and schedule.
        batch_size: rows a step.
        scaled: False if the source trains on raw activations: pass `build` the statistics through `raw_units`.
    """

    source: str
    dictionary: DictionaryConfig
    train: TrainConfig
    batch_size: int
    scaled: bool = True


def preset(name: str, *, d_model: int, n_steps: int) -> Preset:
    """Return a published recipe for a residual width and a number of steps.

    Raises:
        ConfigError: no recipe has that name ("unknown-preset").
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}", code="unknown-preset")
    return PRESETS[name](d_model, n_steps)


def raw_units(stats: SiteStatistics) -> SiteStatistics:
    """Return statistics with which `build` neither shifts nor scales."""
    return replace(stats, mean=torch.zeros_like(stats.mean), scale=torch.ones_like(stats.scale))


_one_rate = partial(TrainConfig, bias_lr_factor=1.0)


def _anthropic_l1(d: int, n_steps: int) -> Preset:
    return Preset(
        "Anthropic, Circuits Updates April 2024, 'Update on how we train SAEs'",
        DictionaryConfig(kind="sae", n_latents=8 * d, sparsity="relu", penalty=Penalty(weight=5.0)),
        _one_rate(n_steps=n_steps, lr=5e-5, warmup=0.0, decay=0.2, clip_norm=1.0),
        batch_size=2048,
    )


def _gated(d: int, n_steps: int) -> Preset:
    return Preset(
        "arXiv 2404.16014; rate from its authors' post on LessWrong; lambda is swept there",
        DictionaryConfig(kind="sae", n_latents=16 * d, sparsity="gated", published=PublishedConfig(pre_bias=True)),
        _one_rate(n_steps=n_steps, lr=3e-4, betas=(0.0, 0.999), decay=0.0),
        batch_size=4096,
    )


def _jumprelu(d: int, n_steps: int) -> Preset:
    rule = JumpReluConfig(threshold=1e-3 * d**0.5, bandwidth=1e-3 * d**0.5, straight_through=False)
    return Preset(
        "arXiv 2407.14435 (mean of |x|^2 = 1); lambda is swept there, 1e-3 here",
        DictionaryConfig(
            kind="sae", n_latents=16 * d, sparsity="jumprelu", jumprelu=rule, penalty=Penalty(weight=1e-3 * d)
        ),
        TrainConfig(n_steps=n_steps, lr=7e-5, bias_lr_factor=d**0.5, betas=(0.0, 0.999), decay=0.0),
        batch_size=4096,
    )


def _topk(d: int, n_steps: int) -> Preset:
    return Preset(
        "arXiv 2406.04093, section 2 and appendix A",
        DictionaryConfig(kind="sae", n_latents=16 * d, k=32, sparsity="topk", published=PublishedConfig(pre_bias=True)),
        _one_rate(n_steps=n_steps, decay=0.0),
        batch_size=2048,
    )


def _batchtopk(d: int, n_steps: int) -> Preset:
    return Preset(
        "arXiv 2412.06410",
        DictionaryConfig(kind="sae", n_latents=16 * d, k=32),
        _one_rate(n_steps=n_steps),
        batch_size=4096,
    )


def _matryoshka(d: int, n_steps: int) -> Preset:
    return Preset(
        "arXiv 2503.17547",
        DictionaryConfig(kind="sae", n_latents=16 * d, k=32, sparsity="matryoshka"),
        _one_rate(n_steps=n_steps),
        batch_size=2048,
    )


def _crosscoder_minder(d: int, n_steps: int) -> Preset:
    anneal = Anneal(start=min(1024, 32 * d), steps=2000)
    return Preset(
        "arXiv 2504.02922 (100 M rows, 2 epochs; scales each side by itself)",
        DictionaryConfig(kind="crosscoder", n_latents=32 * d, k=100, anneal=anneal),
        _one_rate(n_steps=n_steps, lr=1e-4),
        batch_size=2048,
    )


def _diffsae_toolkit(d: int, n_steps: int) -> Preset:
    return Preset(
        "science-of-finetuning/diffing-toolkit, which also trains recon 'l2norm'",
        DictionaryConfig(kind="diff", n_latents=2 * d, k=100),
        _one_rate(n_steps=n_steps, lr=1e-4),
        batch_size=2048,
    )


_BACKDOOR = "techsachinkr/diff-sae-backdoor-detection, code of arXiv 2605.07324; for reproduction only"


def _diffsae_backdoor(d: int, n_steps: int) -> Preset:
    """1e-4 times the mean activation over rows and latents, where `Penalty` has the sum over latents over the width."""
    published = PublishedConfig(tied="columns", plain_penalty=True, ghost="diffsae", ghost_weight=0.1)
    return Preset(
        _BACKDOOR,
        DictionaryConfig(
            kind="diff",
            n_latents=32 * d,
            sparsity="relu",
            penalty=Penalty(weight=1e-4 / 32, warmup=0.0),
            published=published,
        ),
        _one_rate(n_steps=n_steps, lr=1e-4, warmup=0.0, decay=0.0, dead_after=10_000 * 256),
        batch_size=256,
        scaled=False,
    )


def _crosscoder_backdoor(d: int, n_steps: int) -> Preset:
    """The twin: the 32 largest activations of a row, rows of any norm (they start at 1, there at sqrt(2))."""
    return Preset(
        _BACKDOOR,
        DictionaryConfig(
            kind="crosscoder",
            n_latents=32 * d,
            k=32,
            sparsity="topk",
            aux_alpha=0.0,
            penalty=Penalty(weight=1e-4 / 16, warmup=0.0),
            crosscoder=CrosscoderConfig(score="none"),
            published=PublishedConfig(tied="free", plain_penalty=True),
        ),
        _one_rate(n_steps=n_steps, lr=1e-4, warmup=0.0, decay=0.0, dead_after=10_000 * 256),
        batch_size=256,
        scaled=False,
    )


PRESETS: dict[str, Callable[[int, int], Preset]] = {
    "anthropic-l1-2024": _anthropic_l1,
    "gated-2024": _gated,
    "jumprelu-2024": _jumprelu,
    "topk-2024": _topk,
    "batchtopk-2024": _batchtopk,
    "matryoshka-2025": _matryoshka,
    "crosscoder-minder-2025": _crosscoder_minder,
    "diffsae-toolkit": _diffsae_toolkit,
    "diffsae-backdoor": _diffsae_backdoor,
    "crosscoder-backdoor": _crosscoder_backdoor,
}
