"""Latent scaling: how strongly a latent's direction is present in a target, per unit of its activation.

For latent j with activations f, direction d and a target y (one vector a row) it is the least squares fit

    β = argmin Σ_i ‖y_i - β f_i d‖² = Σ_i f_i⟨d, y_i⟩ / (‖d‖² Σ_i f_i²)        (Minder et al. 2025, arXiv 2504.02922)

The published form builds y for every latent, since the *error* target y = e + f_j w_j adds the latent's own part w_j
back to the reconstruction error e. By linearity Σ f⟨d, y⟩ = Σ f⟨d, e⟩ + ⟨d, w_j⟩ Σ f², so one pass over the rows is
enough: a few sums a latent, over the rows in which it fires, for all latents together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries import Code
from saeaudit.dictionaries.code import Places
from saeaudit.dictionaries.ops import dot_at
from saeaudit.metrics.group_sums import N_GROUPS, GroupSums

_FIXED = 4  # sums that every latent has: firings, Σf, Σf², Σf·(own f)
_CHUNK_LATENTS = 128  # their draws stay in the cache


class LatentEstimate(NamedTuple):
    """A number a latent with the ends of its 95 % interval; NaN where it is not defined."""

    value: Float[Tensor, " latent"]
    low: Float[Tensor, " latent"]
    high: Float[Tensor, " latent"]

    def where(self, defined: Bool[Tensor, " latent"]) -> "LatentEstimate":
        """Return the same with NaN where `defined` does not hold."""
        return LatentEstimate(*(torch.where(defined, t, torch.nan) for t in self))


@dataclass(frozen=True)
class ScalingSums:
    """Sums of some latents for several draws of groups; what a statistic of β is a function of.

    Attributes:
        f, f2, overlap: "draw latent", Σf, Σf², and Σ f·(the latent's own activation), which is Σf² unless rows were
            shuffled.
        dots: by target, "draw latent", Σ f⟨d, y⟩, of centred targets about their mean over all rows.
        variance: by centred target, "draw", Σ‖y - mean‖².
        power: "latent", ‖d‖².
        own: by target, "latent", ⟨d, w_j⟩ of error targets.
    """

    f: Float[Tensor, "draw latent"]
    f2: Float[Tensor, "draw latent"]
    overlap: Float[Tensor, "draw latent"]
    dots: Mapping[str, Float[Tensor, "draw latent"]]
    variance: Mapping[str, Float[Tensor, " draw"]]
    power: Float[Tensor, " latent"]
    own: Mapping[str, Float[Tensor, " latent"]]

    def beta(self, *targets: str, error: bool = False) -> Float[Tensor, "draw latent"]:
        """Return β for the sum of `targets`; NaN for a latent that never fired or has no direction.

        Args:
            targets: names; β is linear in the target, so that of a sum needs no sums of its own.
            error: add the latent's own part of each target back, y = e + f_j w_j.
        """
        first, *others = targets
        dots = sum((self.dots[t] for t in others), self.dots[first])
        if error:
            dots = dots + self.overlap * torch.stack([self.own[t] for t in targets]).sum(0)
        return dots / (self.power * self.f2)


class LatentScaling:
    """Accumulate the sums behind β for every latent and a fixed set of targets.

    Args:
        direction: "latent d_model", d of each latent.
        targets: names of the targets.
        own: for error targets, "latent d_model", the latent's own decoder row w in that target.
        centred: targets from which the mean over all rows is subtracted.
        n_groups: groups of documents.
    """

    def __init__(
        self,
        direction: Float[Tensor, "latent d_model"],
        targets: Sequence[str],
        *,
        own: Mapping[str, Float[Tensor, "latent d_model"]] | None = None,
        centred: Sequence[str] = (),
        n_groups: int = N_GROUPS,
    ) -> None:
        self._direction = direction.contiguous()
        self._targets, self._centred = tuple(targets), tuple(centred)
        n_latents, d_model = direction.shape
        exact = direction.double()
        self._power = exact.square().sum(1).cpu()
        self._own = {name: (exact * w.double()).sum(1).cpu() for name, w in (own or {}).items()}
        sums = {"latents": (n_latents, _FIXED + len(self._targets))}
        for name in self._centred:
            sums |= {f"y {name}": (d_model,), f"yy {name}": ()}
        self._sums = GroupSums(n_groups, device=direction.device, **sums)

    @property
    def firings(self) -> Float[Tensor, " latent"]:
        """Number of rows in which each latent fired."""
        return self._sums.total("latents")[:, 0]

    @property
    def sum_squares(self) -> Float[Tensor, " latent"]:
        """Σf² of each latent: the weight of the evidence behind its β."""
        return self._sums.total("latents")[:, 2]

    def update(
        self,
        code: Code,
        targets: Mapping[str, Float[Tensor, "row d_model"]],
        group: Int[Tensor, " row"],
        *,
        regressor: Code | None = None,
    ) -> None:
        """Add rows.

        Args:
            code: what made the reconstruction behind error targets.
            targets: name -> y of each row.
            group: group of documents of each row.
            regressor: f, where it is not `code`: the same with rows shuffled, for a control.
        """
        used = code if regressor is None else regressor
        places, f = _active(used, len(self._direction))
        own = f if regressor is None else _values_at(places, code)
        dots = [f * dot_at(targets[name], self._direction, places) for name in self._targets]
        entries = torch.stack([t.double() for t in (torch.ones_like(f), f, f * f, f * own, *dots)], 1)
        self._sums.add_entries("latents", group[places.rows], places.latents, entries)
        rows: dict[str, Tensor] = {}
        for name in self._centred:
            y = targets[name].double()
            rows |= {f"y {name}": y, f"yy {name}": (y * y).sum(1)}
        self._sums.add(group, **rows)

    def merge(self, other: "LatentScaling") -> None:
        """Add the rows that `other` has seen; it must have the same directions and targets."""
        self._sums.merge(other._sums)

    def estimates(
        self, statistic: Callable[[ScalingSums], Mapping[str, Tensor]], *, n_resamples: int = 500, seed: int
    ) -> dict[str, LatentEstimate]:
        """Return named numbers a latent; `statistic` maps sums to "draw latent".

        Without resamples the intervals are NaN.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        weights = self._sums.weights(n_resamples=n_resamples, seed=seed)
        found: dict[str, list[Tensor]] = {}
        for start in range(0, len(self._direction), _CHUNK_LATENTS):
            part = slice(start, start + _CHUNK_LATENTS)
            for name, draws in statistic(self._at(part, weights)).items():
                bounds = self._sums.bounds(draws)
                found.setdefault(name, []).append(torch.stack([draws[0], *bounds]))
        return {name: LatentEstimate(*torch.cat(parts, 1)) for name, parts in found.items()}

    def _at(self, part: slice, weights: Float[Tensor, "draw group"]) -> ScalingSums:
        _, f, f2, overlap, *dots = self._sums.weighted("latents", weights, part).unbind(2)
        by_target = dict(zip(self._targets, dots, strict=True))
        n, direction = self._sums.weighted("rows", weights), self._direction[part].cpu().double()
        variance = {}
        for name in self._centred:
            mean = self._sums.weighted(f"y {name}", weights) / n[:, None]
            variance[name] = self._sums.weighted(f"yy {name}", weights) - n * (mean * mean).sum(1)
            by_target[name] = by_target[name] - f * (mean @ direction.T)
        own = {name: w[part] for name, w in self._own.items()}
        return ScalingSums(f, f2, overlap, by_target, variance, self._power[part], own)


def _active(code: Code, n_latents: int) -> tuple[Places, Float[Tensor, " nnz"]]:
    """Return the active places of a code and their values."""
    active = code.values > 0
    offsets = torch.nn.functional.pad(active.sum(1).cumsum(0), (1, 0))
    return Places(code.indices[active], offsets, n_latents), code.values[active]


def _values_at(places: Places, code: Code) -> Float[Tensor, " nnz"]:
    """Return the values of `code` at some places; 0 where it is not active."""
    known, values = _active(code, places.n_latents)
    if not len(values):
        return values.new_zeros(len(places.latents))
    flat, order = known.flat.sort()
    at = torch.searchsorted(flat, places.flat).clamp(max=len(flat) - 1)
    return torch.where(flat[at] == places.flat, values[order[at]], 0.0)
