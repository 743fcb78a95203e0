"""How well a reconstruction fits: share of variance missed, direction, shrinkage; streamed, with intervals.

All three come from the same sums of squares and are tied by FVU = 1 + r² - 2·r·cos, where r is the norm ratio. They are
taken about the mean of the evaluated rows: the mean of a residual stream can be far longer than what varies, and a
dictionary that only knew the mean would otherwise look good.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.metrics.group_sums import N_GROUPS, GroupSums
from saeaudit.metrics.uncertainty import Estimate

# A variance below this share of the second moment is rounding of the fp64 sums.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class ReconstructionReport:
    """Fit of one side, or of the difference of two sides; NaN where the rows do not vary.

    Attributes:
        fvu: Σ‖x - x̂‖² / Σ‖x - μ‖²: 0 is perfect, 1 is predicting the mean, no upper bound.
        cosine: between all x - μ and all x̂ - μ as two long vectors, -1 to 1, 1 is perfect.
        cosine_raw: the same without subtracting the mean μ of the evaluated rows.
        norm_ratio: root of Σ‖x̂ - μ‖² / Σ‖x - μ‖²; below 1 is shrinkage.
    """

    fvu: Estimate
    cosine: Estimate
    cosine_raw: Estimate
    norm_ratio: Estimate


class Reconstruction:
    """Accumulate a `ReconstructionReport` from rows x, x̂ "row d_model".

    `centre` "d_model" is any point near the mean of the rows, such as the bias of the decoder: sums of squares about it
    keep the digits that a far mean would cost. The result does not depend on it otherwise.
    """

    def __init__(self, centre: Float[Tensor, " d_model"], *, n_groups: int = N_GROUPS) -> None:
        self._centre = centre.double()
        vector = (len(centre),)
        self._sums = GroupSums(n_groups, device=centre.device, x=vector, error=vector, xx=(), xe=(), ee=())

    def update(
        self, x: Float[Tensor, "row d_model"], x_hat: Float[Tensor, "row d_model"], group: Int[Tensor, " row"]
    ) -> None:
        """Add rows and their reconstructions; `group` numbers the group of documents of each row."""
        x, error = x.double() - self._centre, x.double() - x_hat.double()
        self._sums.add(group, x=x, error=error, xx=(x * x).sum(1), xe=(x * error).sum(1), ee=(error * error).sum(1))

    def merge(self, other: "Reconstruction") -> None:
        """Add the rows that `other` has seen; it must have the same centre."""
        self._sums.merge(other._sums)

    @property
    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean of the rows, fp64."""
        return self._sums.total("x") / self._sums.n_rows + self._centre.cpu()

    def result(self, *, n_resamples: int = 500, seed: int) -> ReconstructionReport:
        """Return the report.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        return ReconstructionReport(**self._sums.estimates(self._statistic, n_resamples=n_resamples, seed=seed))

    def _statistic(self, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mean = sums["x"] / sums["rows"][:, None]
        xx, xe = _about(mean, sums)
        varies = xx > _ROUNDING * sums["xx"]
        xx = torch.where(varies, xx, torch.nan)
        raw_xx, raw_xe = _about(-self._centre.cpu(), sums)
        return {
            "fvu": sums["ee"] / xx,
            "cosine": _cosine(xx, xe, sums["ee"]),
            "cosine_raw": _cosine(raw_xx, raw_xe, sums["ee"]),
            "norm_ratio": (_norm(xx, xe, sums["ee"]) / xx).sqrt(),
        }


def _about(point: Tensor, sums: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return Σ‖x - p‖² and Σ⟨x - p, e⟩ from the sums about the centre; `point` is p, measured from the centre."""
    xx = sums["xx"] - 2 * (sums["x"] * point).sum(-1) + sums["rows"] * (point * point).sum(-1)
    return xx, sums["xe"] - (sums["error"] * point).sum(-1)


def _norm(xx: Tensor, xe: Tensor, ee: Tensor) -> Tensor:
    """Return Σ‖x̂ - p‖² where x̂ = x - e."""
    return (xx - 2 * xe + ee).clamp(min=0)


def _cosine(xx: Tensor, xe: Tensor, ee: Tensor) -> Tensor:
    return (xx - xe) / (xx * _norm(xx, xe, ee)).sqrt()
