"""Is a latent of a crosscoder really there in the tuned model only? Latent scaling against its controls.

With the tuned decoder row as direction on both sides, β⁰/β¹ says how much of what the latent does in the tuned model is
in the base as well: ν_ε on the *error* target finds what an L1 penalty shrank out of the base's decoder row, ν_r on the
*reconstruction* target finds what another latent says there instead (Minder et al. 2025, arXiv 2504.02922, section 3).
A latent is tuned-specific if |ν_ε| < 0.2 and |ν_r| < 0.5.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries import Code, Crosscoder
from saeaudit.metrics.decoder_rows import (
    SHARED,
    TUNED_ONLY,
    NormBins,
    RelativeNorms,
    decoder_bias,
    norm_bins,
    relative_norms,
)
from saeaudit.metrics.group_sums import N_GROUPS
from saeaudit.metrics.latent_scaling import LatentEstimate, LatentScaling, ScalingSums
from saeaudit.metrics.scaling_controls import MIN_FIRINGS, ControlledScaling, density_matched, median

NU_ERROR, NU_RECONSTRUCTION = 0.2, 0.5
# A ratio to a smaller β¹ says nothing.
MIN_BETA = 0.1

_TARGETS = ("error_base", "error_tuned", "reconstruction_base", "reconstruction_tuned")


@dataclass(frozen=True)
class ExclusivityRow:
    """One line of the table: a set of latents under one treatment.

    Attributes:
        latents: which latents, in words.
        n: how many, of those that fired.
        n_defined: how many have both ratios.
        n_specific: how many of these are tuned-specific.
        nu_error, nu_reconstruction: medians; NaN where none is defined.
        beta_error_tuned, beta_reconstruction_tuned: medians; near 1 where the latent does what its row says.
    """

    latents: str
    n: int
    n_defined: int
    n_specific: int
    nu_error: float
    nu_reconstruction: float
    beta_error_tuned: float
    beta_reconstruction_tuned: float


@dataclass(frozen=True)
class ExclusivityReport:
    """Per latent: norms, β by target and side, ν with intervals, and whether it is tuned-specific.

    Attributes:
        estimates: `beta_{error,reconstruction,activation}_{base,tuned}`, `nu_error`, `nu_reconstruction`.
        norms: relative decoder norms; 1 is tuned only.
        bins: how many of the latents that fire have which relative norm, scaled units.
        firings: rows in which each latent fired.
        sum_squares: Σf².
        specific: both ratios are defined and below their thresholds.
        table: the sets of latents beside their controls.
    """

    estimates: Mapping[str, LatentEstimate]
    norms: RelativeNorms
    bins: NormBins
    firings: Float[Tensor, " latent"]
    sum_squares: Float[Tensor, " latent"]
    specific: Bool[Tensor, " latent"]
    table: tuple[ExclusivityRow, ...]


class Exclusivity:
    """Accumulate an `ExclusivityReport` of a crosscoder, in its scaled units.

    All numbers but those of the shuffled control are independent of how rows are batched.

    Raises:
        EvidenceError: the training left decoder norms undetermined (code `undefined-metric`).
    """

    def __init__(self, dictionary: Crosscoder, *, n_groups: int = N_GROUPS, seed: int) -> None:
        self._norms = relative_norms(dictionary)
        W_dec = dictionary.W_dec.detach()
        own = {"error_base": W_dec[:, 0], "error_tuned": W_dec[:, 1]}
        self._scale = dictionary.coder.scale[:, None]
        self._bias = decoder_bias(dictionary)
        self._scaling = ControlledScaling(W_dec[:, 1], _TARGETS, own=own, n_groups=n_groups, seed=seed)

    def update(
        self,
        base: Float[Tensor, "row d_model"],
        difference: Float[Tensor, "row d_model"],
        code: Code,
        x_hat: Float[Tensor, "row 2 d_model"],
        group: Int[Tensor, " row"],
    ) -> None:
        """Add rows: raw base activations, tuned - base, the code of both and its raw reconstruction."""
        x = torch.stack([base, base + difference], 1)
        error = ((x - x_hat) / self._scale).unbind(1)
        reconstruction = ((x_hat - self._bias) / self._scale).unbind(1)
        self._scaling.update(code, dict(zip(_TARGETS, (*error, *reconstruction), strict=True)), group)

    def merge(self, other: "Exclusivity") -> None:
        """Add the rows that `other` has seen; it must be of the same dictionary and seed."""
        self._scaling.merge(other._scaling)

    def result(self, *, n_resamples: int = 500, seed: int) -> ExclusivityReport:
        """Return the report.

        A ratio is NaN for a latent that fired in fewer than 100 rows or whose |β¹| is below 0.1.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        real = self._scaling.real
        estimates = _ratios(real, n_resamples=n_resamples, seed=seed)
        return ExclusivityReport(
            estimates=estimates,
            norms=self._norms,
            bins=norm_bins(self._norms.scaled[real.firings >= MIN_FIRINGS]),
            firings=real.firings,
            sum_squares=real.sum_squares,
            specific=_specific(estimates),
            table=self._table(estimates, seed),
        )

    def _table(self, real: Mapping[str, LatentEstimate], seed: int) -> tuple[ExclusivityRow, ...]:
        firings, norm = self._scaling.real.firings, self._norms.scaled
        fires = firings >= MIN_FIRINGS
        exclusive = (fires & (norm >= TUNED_ONLY)).nonzero()[:, 0]
        shared = (fires & (norm >= SHARED[0]) & (norm <= SHARED[1])).nonzero()[:, 0]
        matched = density_matched(exclusive, shared, firings)
        shuffled = _ratios(self._scaling.shuffled, n_resamples=0, seed=seed)
        random = _ratios(self._scaling.random, n_resamples=0, seed=seed)
        return (
            _row("all that fire", fires.nonzero()[:, 0], real),
            _row("tuned only by norm", exclusive, real),
            _row("control: shared, of the same density", matched, real),
            _row("control: tuned only by norm, rows shuffled", exclusive, shuffled),
            _row("control: tuned only by norm, random directions", exclusive, random),
        )


def _ratios(scaling: LatentScaling, *, n_resamples: int, seed: int) -> dict[str, LatentEstimate]:
    """Return β and ν; ν is NaN by the rule for few firings and small β¹."""
    found = scaling.estimates(_statistic, n_resamples=n_resamples, seed=seed)
    for target in ("error", "reconstruction"):
        defined = (scaling.firings >= MIN_FIRINGS) & (found[f"beta_{target}_tuned"].value.abs() >= MIN_BETA)
        found[f"nu_{target}"] = found[f"nu_{target}"].where(defined)
    return found


def _statistic(sums: ScalingSums) -> dict[str, Tensor]:
    out = {}
    for side in ("base", "tuned"):
        error, reconstruction = f"error_{side}", f"reconstruction_{side}"
        out[f"beta_{error}"] = sums.beta(error, error=True)
        out[f"beta_{reconstruction}"] = sums.beta(reconstruction)
        # x - b = (x - x̂) + (x̂ - b): the activation needs no sums of its own.
        out[f"beta_activation_{side}"] = sums.beta(error, reconstruction)
    for target in ("error", "reconstruction"):
        out[f"nu_{target}"] = out[f"beta_{target}_base"] / out[f"beta_{target}_tuned"]
    return out


def _specific(found: Mapping[str, LatentEstimate]) -> Bool[Tensor, " latent"]:
    # NaN compares as False.
    small = found["nu_error"].value.abs() < NU_ERROR
    return small & (found["nu_reconstruction"].value.abs() < NU_RECONSTRUCTION)


def _row(name: str, latents: Int[Tensor, " n"], found: Mapping[str, LatentEstimate]) -> ExclusivityRow:
    value = {key: estimate.value[latents] for key, estimate in found.items()}
    defined = value["nu_error"].isfinite() & value["nu_reconstruction"].isfinite()
    medians = ("nu_error", "nu_reconstruction", "beta_error_tuned", "beta_reconstruction_tuned")
    return ExclusivityRow(
        name,
        len(latents),
        int(defined.sum()),
        int(_specific(found)[latents].sum()),
        **{key: median(value[key]) for key in medians},
    )
