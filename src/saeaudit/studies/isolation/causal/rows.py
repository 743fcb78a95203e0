"""From edits that were tried to rows with counts, intervals and controls."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.causal_results import Answers, CausalRow, Measure
from saeaudit.metrics import clustered_proportion
from saeaudit.studies.isolation.causal.editing import Editing, Tried
from saeaudit.studies.isolation.causal.edits import Planned
from saeaudit.studies.isolation.causal.score import (
    attack,
    defence,
    is_coherent,
    mcnemar,
    mean_cost,
    normalised_attack,
    quotient,
)
from saeaudit.studies.isolation.causal.trial import Prompts, Written


def answers_of(written: Written, prompts: Prompts) -> Answers:
    """Return counts and the rate of the behaviour."""
    rate = clustered_proportion(written.bad.bool(), prompts.group)
    return Answers(
        n=rate.n,
        n_bad=int(written.bad.sum()),
        n_good=int(written.good.sum()),
        rate=Measure(value=rate.value, interval=(rate.interval.low, rate.interval.high), n=rate.n),
    )


def rows_of(editing: Editing, tried: Sequence[Tried], *, is_base: bool = False) -> list[CausalRow]:
    """Return a row an edit, in order; `is_base` says that the base is edited."""
    return [_row(editing, one, tried, is_base=is_base) for one in tried]


def _row(editing: Editing, one: Tried, tried: Sequence[Tried], *, is_base: bool) -> CausalRow:
    plan, seed = one.plan, editing.trial.seed
    prompts, before = editing.judged_on(plan)
    success, normalised, excess = _successes(editing, one, [t.written for t in tried if _controls(t.plan, plan)])
    planted = editing.likelihood(editing.trial.trigger, editing.unedited.tuned)
    perplexity, allowed = (_ratio(nll, editing.likelihood(prompts, before)) for nll in (one.nll, planted))
    valid, valid_before = (float((w.bad + w.good).mean()) for w in (one.written, before))
    return CausalRow(
        kind=plan.kind,
        side="base" if is_base else "tuned",
        method=plan.method,
        control=plan.control,
        draw=plan.draw,
        count=plan.count,
        strength=plan.strength,
        latents=list(plan.latents),
        answers=answers_of(one.written, prompts),
        success=success,
        normalised=normalised,
        excess=excess,
        mcnemar_p=mcnemar(before.bad, one.written.bad),
        perplexity=perplexity,
        coherent=is_coherent(valid, valid_before, perplexity, allowed),
        benign=None if one.benign is None else answers_of(one.benign, editing.trial.benign),
        kl=mean_cost(one.kl, seed=seed),
        ce_rise=mean_cost(one.rise, seed=seed),
        seconds=one.written.seconds,
    )


def _successes(
    editing: Editing, one: Tried, controls: Sequence[Written]
) -> tuple[Measure | None, Measure | None, Measure | None]:
    """Return success, normalised success, and excess over controls."""
    trial, free, after, seed = editing.trial, editing.unedited, one.written.bad, editing.trial.seed
    prompts, before = editing.judged_on(one.plan)
    others = torch.stack([w.bad for w in controls]).mean(0) if controls else None
    if one.plan.kind == "ablate":
        gap = None if free.twin is None else before.bad - free.twin.bad
        return (
            defence(before.bad, after, prompts.group, seed=seed),
            None if gap is None else quotient(before.bad - after, gap, prompts.group, seed=seed),
            None if others is None else quotient(others - after, before.bad, prompts.group, seed=seed),
        )
    tuned = (free.tuned.bad, trial.trigger.group)
    return (
        attack(after, prompts.group, seed=seed),
        normalised_attack(after, before.bad, prompts.group, trigger=tuned[0], trigger_group=tuned[1], seed=seed),
        None if others is None else quotient(after - others, torch.ones_like(after), prompts.group, seed=seed),
    )


def _controls(other: Planned, plan: Planned) -> bool:
    """Whether `other` is a random control of `plan`."""
    same = (other.kind, other.method, other.count, other.strength) == (
        plan.kind,
        plan.method,
        plan.count,
        plan.strength,
    )
    return same and plan.control is None and other.control in ("random latents", "random direction")


def _ratio(after: Float[Tensor, " row"], before: Float[Tensor, " row"]) -> float | None:
    """Return the quotient of two perplexities; None where one of the two writes nothing at all."""
    value = math.exp(min(float(after.nanmean() - before.nanmean()), 50.0))
    return None if math.isnan(value) else value
