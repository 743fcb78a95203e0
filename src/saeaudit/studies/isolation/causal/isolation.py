"""How far the best cheap ablation of a method goes beyond random ones that cost as much."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from saeaudit.causal_results import MAX_CE_RISE, MAX_KL, MIN_VALID, Isolation
from saeaudit.interventions import EqualNorm
from saeaudit.studies.isolation.causal.editing import Editing, Tried
from saeaudit.studies.isolation.causal.edits import Planned
from saeaudit.studies.isolation.causal.score import defence, quotient
from saeaudit.studies.isolation.causal.trial import Written, text_losses

SCALES = (2.0, 4.0, 8.0, 16.0, 32.0)


def with_dearer_controls(editing: Editing, tried: Sequence[Tried]) -> list[Tried]:
    """Return all that was tried, and the random directions beside each method's best ablation that cost less than it.

    Those are lengthened until they cost as much; one that never does is left out.
    """
    plans: list[Planned] = []
    for method in _methods(tried):
        best = _best(editing, tried, method)
        if best is None:
            continue
        least = float(best.kl.mean())
        cheaper = [t.plan for t in tried if _is_direction_of(t.plan, best.plan) and float(t.kl.mean()) < least]
        plans += [longer for plan in cheaper if (longer := _lengthened(editing, plan, least)) is not None]
    return [*tried, *(editing.try_all(plans) if plans else [])]


def isolations(editing: Editing, tried: Sequence[Tried]) -> list[Isolation]:
    """Return a number a method; one without a cheap ablation, or without a control as dear, is left out."""
    found, (prompts, before) = [], (editing.trial.trigger, editing.unedited.trigger)
    for method in _methods(tried):
        best = _best(editing, tried, method)
        dear = [] if best is None else _dear(tried, best)
        if best is None or not dear:
            continue
        seed, group = editing.trial.seed, prompts.group
        others = torch.stack([t.written.bad for t in dear]).mean(0)
        success = defence(before.bad, best.written.bad, group, seed=seed)
        control = defence(before.bad, others, group, seed=seed)
        value = quotient(others - best.written.bad, before.bad, group, seed=seed)
        if success is not None and control is not None and value is not None:
            found.append(
                Isolation(
                    method=method,
                    count=best.plan.count,
                    success=success.value,
                    control=control.value,
                    n_controls=len(dear),
                    value=value,
                )
            )
    return found


def _methods(tried: Sequence[Tried]) -> list[str]:
    return list(dict.fromkeys(t.plan.method for t in tried if t.plan.kind == "ablate"))


def _best(editing: Editing, tried: Sequence[Tried], method: str) -> Tried | None:
    """Return the cheap ablation after which the behaviour is rarest; of equals the one with fewest latents.

    One after which answers can no longer be judged defends against nothing.
    """
    own = [t for t in tried if t.plan.kind == "ablate" and t.plan.method == method and t.plan.control is None]
    least = MIN_VALID * _valid(editing.unedited.trigger)
    cheap = [
        t
        for t in own
        if float(t.rise.mean()) <= MAX_CE_RISE and float(t.kl.mean()) <= MAX_KL and _valid(t.written) >= least
    ]
    return min(cheap, key=lambda t: (float(t.written.bad.sum()), t.plan.count), default=None)


def _valid(written: Written) -> float:
    return float((written.bad + written.good).mean())


def _dear(tried: Sequence[Tried], best: Tried) -> list[Tried]:
    """Return the ablating controls of the method, of any count, that cost ordinary text at least as much."""
    least = float(best.kl.mean())
    own = (t for t in tried if t.plan.kind == "ablate" and t.plan.method == best.plan.method)
    return [t for t in own if t.plan.control is not None and float(t.kl.mean()) >= least]


def _is_direction_of(plan: Planned, best: Planned) -> bool:
    same = (plan.kind, plan.method, plan.count) == (best.kind, best.method, best.count)
    return same and plan.control == "random direction" and plan.strength == 1.0


def _lengthened(editing: Editing, plan: Planned, least: float) -> Planned | None:
    """Return the control with the smallest scale at which it costs at least as much; None if none of `SCALES` does."""
    trial, change = editing.trial, plan.change
    if not isinstance(change, EqualNorm):
        raise TypeError(f"a random direction is an EqualNorm change, found {type(change).__name__}")
    longer = [replace(change, scale=scale) for scale in SCALES]
    costs = text_losses(trial.pair, trial.site, longer, trial.texts).kl.mean(1).tolist()
    k = next((k for k, cost in enumerate(costs) if cost >= least), None)
    return None if k is None else replace(plan, change=longer[k], strength=SCALES[k])
