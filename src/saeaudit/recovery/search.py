"""Search for the perturbation that brings a suppressed behaviour back: projected, normalised descent.

Rows of the working batch are (item x budget) and never interact. One step, for every row at once:

1. g = gradient of the row's loss, projected on the free directions; rows whose gradient vanishes take no step.
2. v <- project(0.9 v + g / |g|); delta <- project(delta - eta * eps * v / |v|), clipped to the ball of radius eps.
3. Iterates are feasible after every step, so the best one can be kept: success first, then the largest margin.

Steps are proportional to the row's own budget, so all rungs of a ladder behave alike. No Adam: its scaling of single
coordinates leaves the subspace. Source: arXiv 2606.18322 in exact form (gradient, momentum and iterate are projected;
the released code projects the gradient only, and its iterates drift back into the protected span).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.errors import NumericsError
from saeaudit.recovery.nullspace import NullSpace

MOMENTUM = 0.9
FIRST_STEP, LAST_STEP = 0.3, 0.02
START = 0.01
VANISHED = 1e-12


class RowScores(NamedTuple):
    """What an objective says of each row.

    Attributes:
        loss: "row", differentiable, 0 once the row has what it wants (saturated: a search must not overshoot).
        margin: "row", > 0 means that the behaviour is there.
    """

    loss: Float[Tensor, " row"]
    margin: Float[Tensor, " row"]


# Called with perturbations and the numbers of the rows they belong to.
Objective = Callable[[Float[Tensor, "some d_model"], Int[Tensor, " some"]], RowScores]


class Found(NamedTuple):
    """Best feasible perturbations.

    Attributes:
        delta: "row d_model", norm at most the row's budget (to 1e-6), in the free subspace.
        margin: "row", margin at `delta`.
        success: "row", whether the margin is positive.
        n_gradients: gradient evaluations spent, each over the rows that were still moving.
    """

    delta: Float[Tensor, "row d_model"]
    margin: Float[Tensor, " row"]
    success: Bool[Tensor, " row"]
    n_gradients: int


def search(
    objective: Objective,
    budgets: Float[Tensor, " row"],
    free: NullSpace,
    *,
    n_steps: int,
    starts: Float[Tensor, "row d_model"],
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Minimise the loss of every row within its budget; deterministic, and a row does not depend on the others.

    Args:
        objective: scores of some rows; rows must not influence each other.
        budgets: largest norm of each row's perturbation, in units of the residual; a row with 0 stays at 0.
        free: directions that may be used.
        n_steps: gradient steps, at least 1.
        starts: where each row begins (`random_feasible` at `START` times the budget): not 0, which can be a symmetric
            point. Projected and shortened to the budget first.
        progress: called with (steps done, steps).

    Raises:
        NumericsError: the objective is NaN or infinite (code `search-non-finite`).
    """
    delta = project_ball(starts, budgets, free)
    velocity = torch.zeros_like(delta)
    best, best_margin = delta.clone(), torch.full_like(budgets, -math.inf)
    moving, spent = torch.arange(len(budgets)), 0
    for step in range(n_steps + 1):
        last = step == n_steps
        at = delta[moving].requires_grad_(not last)
        with torch.set_grad_enabled(not last):
            scores = objective(at, moving)
        _require_finite(scores, moving, step)
        margin = scores.margin.detach()
        better = margin > best_margin[moving]
        best[moving[better]], best_margin[moving[better]] = delta[moving[better]], margin[better]
        if progress is not None:
            progress(step, n_steps)
        if last:
            break
        gradient = free.project(torch.autograd.grad(scores.loss.sum(), at)[0])
        spent += 1
        norm = gradient.norm(dim=1, keepdim=True)
        # A row that has what it wants, or that cannot move, stays where it is: it is not looked at again.
        on = (norm[:, 0] > VANISHED) & (budgets[moving] > 0)
        moving, gradient, norm = moving[on], gradient[on], norm[on]
        if not len(moving):
            break
        velocity[moving] = free.project(MOMENTUM * velocity[moving] + gradient / norm)
        unit = velocity[moving] / velocity[moving].norm(dim=1, keepdim=True).clamp_min(VANISHED)
        limit = budgets[moving]
        delta[moving] = project_ball(delta[moving] - _step_size(step, n_steps) * limit[:, None] * unit, limit, free)
    return Found(best, best_margin, best_margin > 0, spent)


def project_ball(
    delta: Float[Tensor, "row d_model"], budgets: Float[Tensor, " row"], free: NullSpace
) -> Float[Tensor, "row d_model"]:
    """Return the nearest perturbations in the free subspace, shortened to their budgets where needed."""
    delta = free.project(delta)
    norm = delta.norm(dim=1, keepdim=True)
    return delta * torch.clamp(budgets[:, None] / norm.clamp_min(VANISHED), max=1.0)


def random_feasible(
    budgets: Float[Tensor, " row"], free: NullSpace, generator: torch.Generator
) -> Float[Tensor, "row d_model"]:
    """Return a random free direction for each row with exactly its budget as norm: starts, and the control."""
    delta = free.project(torch.randn(budgets.shape[0], free.d_model, generator=generator))
    return delta / delta.norm(dim=1, keepdim=True) * budgets[:, None]


def _require_finite(scores: RowScores, rows: Int[Tensor, " some"], step: int) -> None:
    broken = ~(torch.isfinite(scores.margin) & torch.isfinite(scores.loss))
    if bool(broken.any()):
        found = rows[broken].tolist()
        raise NumericsError(
            f"the search objective is NaN or infinite at step {step} in {len(found)} of {len(broken)} rows (first: "
            f"{found[0]}); run in float32, or check the weights",
            code="search-non-finite",
        )


def _step_size(step: int, n_steps: int) -> float:
    if n_steps == 1:
        return FIRST_STEP
    return LAST_STEP + 0.5 * (FIRST_STEP - LAST_STEP) * (1 + math.cos(math.pi * step / (n_steps - 1)))
