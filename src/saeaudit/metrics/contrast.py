"""How much a behaviour depends on the trigger, and how much a change to the model changes that.

The contrast is the mean outcome on trigger prompts minus the mean on benign prompts. Comparing two models (tuned and
base, or tuned and ablated) on the same prompts is a difference of contrasts; the interval resamples whole groups and
keeps the pairing.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.errors import EvidenceError, InputError
from saeaudit.metrics.bootstrap import bootstrap_interval, weighted_mean
from saeaudit.metrics.uncertainty import Estimate, Interval, clopper_pearson


def trigger_contrast(
    outcome: Float[Tensor, "row"],
    trigger: Bool[Tensor, "row"],
    group: Int[Tensor, "row"],
    *,
    n_resamples: int = 2000,
    seed: int,
) -> Estimate:
    """Return mean outcome (each in 0..1) on trigger rows minus on benign rows; range -1 to 1, 0 is no dependence."""
    return contrast_change(outcome, torch.zeros_like(outcome), trigger, group, n_resamples=n_resamples, seed=seed)


def contrast_change(
    after: Float[Tensor, "row"],
    before: Float[Tensor, "row"],
    trigger: Bool[Tensor, "row"],
    group: Int[Tensor, "row"],
    *,
    n_resamples: int = 2000,
    seed: int,
) -> Estimate:
    """Return contrast(after) - contrast(before) on the same prompts, with a 95 % interval.

    Outcomes are shares in 0..1 (1 = the behaviour occurred); the result ranges from -2 to 2. `n` counts trigger rows.
    When no resample differs from the estimate (all prompts agree), the interval is that of two classes whose exact
    bounds of "all of m groups agree" are added in quadrature (as Newcombe, 1998, does for two proportions): a
    bootstrap cannot see what did not occur in the sample.

    Raises:
        InputError: an outcome is outside 0..1.
        EvidenceError: one of the classes has no row.
    """
    for values in (after, before):
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError("outcomes must be between 0 and 1 (1 = the behaviour occurred)", code="outcome-range")
    require_both_classes(trigger, "a trigger-minus-benign contrast")
    change = after.double() - before.double()
    is_trigger = trigger.double()

    def statistic(weights: Float[Tensor, "resample row"]) -> Float[Tensor, "resample"]:
        return weighted_mean(change, weights * is_trigger) - weighted_mean(change, weights * (1 - is_trigger))

    value = float(change[trigger].mean() - change[~trigger].mean())
    interval = bootstrap_interval(statistic, group, n_resamples=n_resamples, seed=seed)
    if interval.high - interval.low < 1e-9:
        m, n = group[trigger].unique().numel(), group[~trigger].unique().numel()
        slack = math.hypot(1 - clopper_pearson(m, m).low, 1 - clopper_pearson(n, n).low)
        # Quadrature is a little short of coverage for one or two groups; this is the exact bound for equal counts.
        slack = max(slack, 2 * (1 - 0.025 ** (1 / (m + n))))
        interval = Interval(max(-2.0, value - slack), min(2.0, value + slack))
    return Estimate(value, interval, int(trigger.sum()))


def require_both_classes(trigger: Bool[Tensor, "row"], what: str) -> None:
    """Raise `EvidenceError` (code `single-class`) unless there are trigger rows and benign rows."""
    n_trigger = int(trigger.sum())
    if n_trigger in (0, trigger.numel()):
        raise EvidenceError(
            f"{what} needs trigger and benign prompts; found {n_trigger} trigger and {trigger.numel() - n_trigger} "
            "benign rows, give examples of both",
            code="single-class",
        )
