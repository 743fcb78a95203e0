"""The edits that are compared, each with its controls: what is taken out at the site, and what is added.

Ablations keep everything they do not name. A control of an ablation is a set of other latents matched one by one in
firing rate and in the size of what they write, or one direction in which every token is moved exactly as far. That
direction is drawn without preference: one drawn with the covariance of the difference is nearly its first principal
component, which is a method of its own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saeaudit.causal_results import ControlName, EditKind
from saeaudit.detection import PairedRows, PromptTokens
from saeaudit.dictionaries import Dictionary
from saeaudit.errors import InputError
from saeaudit.interventions import (
    Change,
    EqualNorm,
    GainLatents,
    ProjectOut,
    ReplaceDifference,
    Steer,
    read_latents,
    written_rows,
)
from saeaudit.metrics import fit_mean_difference, fit_pca
from saeaudit.seeds import torch_generator

COUNTS = (1, 4, 16, 64)
STEER_COUNTS = (1, 16)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
QUANTILE = 0.99
N_ALIKE = 20
_MOST_TOKENS = 4096


@dataclass(frozen=True)
class Planned:
    """An edit and what is said of it; the attributes are those of `CausalRow`."""

    kind: EditKind
    method: str
    change: Change
    count: int
    control: ControlName | None = None
    draw: int = 0
    strength: float = 1.0
    latents: tuple[int, ...] = ()


def tokens_of(rows: PairedRows) -> PromptTokens:
    """Return the tokens of rows that hold them.

    Raises:
        InputError: they hold the last ones only (code `no-tokens`).
    """
    if rows.tokens is None:
        raise InputError(
            "edits are scaled by all tokens of the prompts; these rows hold the last ones", code="no-tokens"
        )
    return rows.tokens


def latent_edits(
    dictionary: Dictionary, name: str, order: Sequence[int], selection: PairedRows, *, n_controls: int, seed: int
) -> list[Planned]:
    """Return ablations and steering of the first latents of `order`, with controls."""
    known, plans = LatentSizes.of(dictionary, tokens_of(selection)), []
    directions = random_directions(n_controls, dictionary.d_model, seed=seed)
    for count in (n for n in COUNTS if n <= len(order) // 2):
        latents = tuple(order[:count])
        found = Planned("ablate", name, GainLatents(dictionary, latents), count, latents=latents)
        plans += [found, *_displaced(found, directions)]
        for draw in range(n_controls):
            others = known.matched(latents, seed=seed, draw=draw)
            change = GainLatents(dictionary, others)
            plans.append(Planned("ablate", name, change, count, "random latents", draw, latents=others))
    mean = normalize(mean_difference(selection), dim=0)
    for count in (n for n in STEER_COUNTS if n <= len(order) // 2):
        latents = tuple(order[:count])
        vector = steering_vector(dictionary, latents, tokens_of(selection))
        for found in _strengths(name, vector, count, latents):
            aligned = Planned("steer", name, EqualNorm(found.change, mean), count, "mean difference", 0, found.strength)
            plans += [found, *_displaced(found, directions), aligned]
    return plans


def direction_edits(selection: PairedRows, *, n_controls: int, seed: int) -> list[Planned]:
    """Return what needs no dictionary: mean difference, principal components, the whole difference (upper bound)."""
    mean = mean_difference(selection)
    components = fit_pca(tokens_of(selection).delta, n_components=max(COUNTS)).components.float()
    directions = random_directions(n_controls, len(mean), seed=seed)
    found = [Planned("ablate", "mean difference", ProjectOut(normalize(mean, dim=0)[None]), 1)]
    found += [
        Planned("ablate", "principal components", ProjectOut(components[:n]), n) for n in COUNTS if n <= len(components)
    ]
    found.append(Planned("ablate", "whole difference", ReplaceDifference(), len(mean)))
    found += _strengths("mean difference", mean, 1)
    return [plan for one in found for plan in (one, *_displaced(one, directions))]


def mean_difference(selection: PairedRows) -> Float[Tensor, " d_model"]:
    """Return the mean difference at the last token of trigger prompts minus that of benign prompts."""
    return fit_mean_difference(selection.delta, selection.label).weight.float()


def random_directions(n: int, d_model: int, *, seed: int) -> Float[Tensor, "n d_model"]:
    """Return unit directions without preference."""
    drawn = [torch.randn(d_model, generator=torch_generator(seed, "random-direction", k)) for k in range(n)]
    return normalize(torch.stack(drawn), dim=1)


def steering_vector(dictionary: Dictionary, latents: Sequence[int], tokens: PromptTokens) -> Float[Tensor, " d_model"]:
    """Return the sum of what the latents write at the 99 % quantile of their activations where they fire."""
    values = _values(dictionary, latents, tokens)
    fires = torch.where(values > 0, values, torch.nan)
    return fires.nanquantile(QUANTILE, dim=0).nan_to_num(0.0) @ written_rows(dictionary, latents)


class LatentSizes(NamedTuple):
    """How often latents fire on the selection prompts, and how far they then move a token (logarithms)."""

    rate: Float[Tensor, " latent"]
    size: Float[Tensor, " latent"]

    @classmethod
    def of(cls, dictionary: Dictionary, tokens: PromptTokens) -> "LatentSizes":
        """Measure all latents."""
        every = range(dictionary.n_latents)
        values = _values(dictionary, every, tokens)
        fires = values > 0
        mean = values.sum(0) / fires.sum(0).clamp(min=1)
        size = mean * written_rows(dictionary, every).norm(dim=1)
        return cls(*((x + least).log() for x, least in ((fires.float().mean(0), 1 / len(values)), (size, 1e-6))))

    def matched(self, latents: Sequence[int], *, seed: int, draw: int) -> tuple[int, ...]:
        """Return as many other latents, each drawn from those most like one of the given."""
        generator, free, chosen = torch_generator(seed, "random-latents", draw), torch.ones(len(self.rate)), []
        free[list(latents)] = 0
        for latent in latents:
            distance = sum((x - x[latent]).square() / x.var().clamp(min=1e-6) for x in self)
            pool = torch.where(free > 0, distance, torch.inf).argsort(stable=True)[: min(N_ALIKE, int(free.sum()))]
            chosen.append(int(pool[int(torch.randint(len(pool), (1,), generator=generator))]))
            free[chosen[-1]] = 0
        return tuple(chosen)


def _strengths(
    method: str, vector: Float[Tensor, " d_model"], count: int, latents: tuple[int, ...] = ()
) -> Iterator[Planned]:
    for strength in STRENGTHS:
        yield Planned("steer", method, Steer(strength * vector), count, strength=strength, latents=latents)


def _displaced(plan: Planned, directions: Float[Tensor, "n d_model"]) -> Iterator[Planned]:
    for draw, direction in enumerate(directions):
        change = EqualNorm(plan.change, direction)
        yield Planned(plan.kind, plan.method, change, plan.count, "random direction", draw, plan.strength)


def _values(dictionary: Dictionary, latents: Sequence[int], tokens: PromptTokens) -> Float[Tensor, "token latent"]:
    """Return activations on at most some thousand tokens, evenly taken."""
    every = slice(None, None, -(-len(tokens.h0) // _MOST_TOKENS))
    h0, delta = tokens.h0[every], tokens.delta[every]
    return read_latents(dictionary, latents, h0, h0 + delta)
