"""What replacing a residual stream does to the next-token distributions: cross-entropy and divergence, streamed.

Values are kept per token (a few numbers each), because a 99 % quantile is not a function of sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from saeaudit.errors import EvidenceError
from saeaudit.metrics.divergence import token_kl
from saeaudit.metrics.group_sums import GroupSums
from saeaudit.metrics.uncertainty import Estimate, Interval

ARMS = ("splice", "zero", "mean")
# A share of less than these, in nats, is a quotient of noise.
MIN_CE_RISE, MIN_KL = 0.05, 1e-3

_COLUMNS = ("ce_clean", *(f"{what}_{arm}" for arm in ARMS for what in ("ce", "kl_clean", "kl_reverse")))


@dataclass(frozen=True)
class SpliceReport:
    """Effect of a splice on one side, nats a token; the references are zero and the mean of the activations.

    Attributes:
        ce_clean, ce_splice, ce_zero, ce_mean: cross-entropy of the text.
        ce_recovered_zero, ce_recovered_mean: (CE_ref - CE_splice) / (CE_ref - CE_clean): 1 is as good as the model
            itself, 0 as bad as the reference; NaN where the reference costs less than 0.05 nat.
        kl_clean_splice: mean of KL(clean ‖ splice), 0 is no effect; `kl_splice_clean` is the other direction.
        kl_clean_splice_p99: its 99 % quantile over tokens.
        kl_clean_zero: mean of KL(clean ‖ zero).
        gap_closed: 1 - KL(clean ‖ splice) / KL(clean ‖ zero): 1 is all, 0 is nothing; for a Diff-SAE, zero is the
            residual of the other model, so this is the share of the gap between the models that it accounts for. NaN
            where the gap is below 0.001 nat.
    """

    ce_clean: Estimate
    ce_splice: Estimate
    ce_zero: Estimate
    ce_mean: Estimate
    ce_recovered_zero: Estimate
    ce_recovered_mean: Estimate
    kl_clean_splice: Estimate
    kl_splice_clean: Estimate
    kl_clean_splice_p99: Estimate
    kl_clean_zero: Estimate
    gap_closed: Estimate


class SpliceDamage:
    """Accumulate a `SpliceReport` from the logits of one side."""

    def __init__(self, *, n_groups: int) -> None:
        self._n_groups = n_groups
        self._tokens: list[Float[Tensor, "token column"]] = []
        self._groups: list[Int[Tensor, " token"]] = []

    def update(
        self,
        clean: Float[Tensor, "token vocab"],
        spliced: Mapping[str, Float[Tensor, "token vocab"]],
        following: Int[Tensor, " token"],
        group: Int[Tensor, " token"],
    ) -> None:
        """Add tokens: logits as they are and by arm ("splice", "zero", "mean"), the token that follows, its group."""
        following = following.to(clean.device)
        columns = [cross_entropy(clean, following, reduction="none")]
        for arm in ARMS:
            logits = spliced[arm]
            columns += [
                cross_entropy(logits, following, reduction="none"),
                token_kl(clean, logits),
                token_kl(logits, clean),
            ]
        self._tokens.append(torch.stack(columns, 1).cpu().double())
        self._groups.append(group)

    def merge(self, other: "SpliceDamage") -> None:
        """Add the tokens that `other` has seen."""
        self._tokens += other._tokens
        self._groups += other._groups

    def result(self, *, n_resamples: int = 500, seed: int) -> SpliceReport:
        """Return the report.

        Raises:
            EvidenceError: there are no tokens (code `no-rows`).
        """
        if not self._tokens:
            raise EvidenceError(
                "no document is long enough to judge a splice; give longer texts of more documents", code="no-rows"
            )
        tokens, group = torch.cat(self._tokens), torch.cat(self._groups)
        sums = GroupSums(self._n_groups, device="cpu", **dict.fromkeys(_COLUMNS, ()))
        sums.add(group, **dict(zip(_COLUMNS, tokens.unbind(1), strict=True)))
        numbers = sums.estimates(_statistic, n_resamples=n_resamples, seed=seed)
        kl = tokens[:, _COLUMNS.index("kl_clean_splice")]
        draws = _quantile(kl, sums.weights(n_resamples=n_resamples, seed=seed), group, 0.99)
        p99 = Estimate(float(draws[0]), Interval(*sums.bounds(draws).tolist()), len(kl))
        return SpliceReport(**numbers, kl_clean_splice_p99=p99)


def _statistic(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    mean = {name: sums[name] / sums["rows"] for name in _COLUMNS}
    out = {name: mean[name] for name in ("ce_clean", "ce_splice", "ce_zero", "ce_mean", "kl_clean_splice")}
    out["kl_splice_clean"], out["kl_clean_zero"] = mean["kl_reverse_splice"], mean["kl_clean_zero"]
    for reference in ("zero", "mean"):
        worst = mean[f"ce_{reference}"]
        out[f"ce_recovered_{reference}"] = _share(worst - mean["ce_splice"], worst - mean["ce_clean"], MIN_CE_RISE)
    out["gap_closed"] = 1 - _share(mean["kl_clean_splice"], mean["kl_clean_zero"], MIN_KL)
    return out


def _share(part: Tensor, whole: Tensor, least: float) -> Tensor:
    return torch.where(whole >= least, part / whole, torch.nan)


def _quantile(
    values: Float[Tensor, " token"], weights: Float[Tensor, "draw group"], group: Int[Tensor, " token"], share: float
) -> Float[Tensor, " draw"]:
    """Return in each draw the smallest value that a share of the tokens does not exceed."""
    ordered, order = values.sort()
    group = group[order]
    draws = []
    for weight in weights:
        below = weight[group].cumsum(0)
        draws.append(ordered[torch.searchsorted(below, share * below[-1])])
    return torch.stack(draws)
