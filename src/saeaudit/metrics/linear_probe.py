"""Logistic regression with an L2 penalty, fitted by Newton's method to convergence.

Steps: standardise the columns; when there are more columns than rows, rotate into the span of the rows (the penalty is
invariant under rotation, so the optimum is the same); damped Newton steps in fp64 on the strictly convex loss; fold the
standardisation back into the weights. The bias is not penalised. Classes are weighted to count equally.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.errors import NumericsError
from saeaudit.metrics.contrast import require_both_classes
from saeaudit.metrics.linear import LinearScore


def fit_linear_probe(
    x: Float[Tensor, "row d_model"], positive: Bool[Tensor, "row"], *, l2: float = 1.0, max_steps: int = 100
) -> LinearScore:
    """Fit the L2-logistic probe; the score is the log-odds at equal class sizes.

    Minimises Σ_i c_i·log(1+exp(−y_i z_i)) + l2/2·‖w‖² on standardised columns, Σ c_i = number of rows: `l2` is 1/C of
    scikit-learn with balanced classes.

    Raises:
        EvidenceError: only one class is present.
        NumericsError: an input is not finite.
    """
    require_both_classes(positive, "a linear probe")
    x = x.double()
    if not bool(x.isfinite().all()):
        raise NumericsError("the rows for a linear probe contain NaN or infinity", code="non-finite-rows")
    mean, scale = x.mean(0), x.std(0, correction=0)
    # A column without spread carries nothing; dividing by 1 leaves it at 0 and its weight at 0.
    scale = torch.where(scale > 1e-12 * x.abs().amax(0), scale, torch.ones_like(scale))
    z = (x - mean) / scale
    rotation = None
    if z.shape[1] > z.shape[0]:
        rotation = torch.linalg.qr(z.T).Q
        z = z @ rotation
    weight, bias = _newton(z, positive, l2, max_steps)
    if rotation is not None:
        weight = rotation @ weight
    weight = weight / scale
    return LinearScore(weight, float(bias - mean @ weight))


def _newton(z: Tensor, positive: Tensor, l2: float, max_steps: int) -> tuple[Tensor, float]:
    n, d = z.shape
    sign = torch.where(positive, 1.0, -1.0).double()
    n_positive = int(positive.sum())
    class_weight = torch.where(positive, n / (2 * n_positive), n / (2 * (n - n_positive))).double()
    design = torch.cat([z, torch.ones(n, 1, dtype=z.dtype)], 1)
    penalty = torch.full((d + 1,), l2, dtype=z.dtype)
    penalty[-1] = 0

    def loss(theta: Tensor) -> float:
        margin = sign * (design @ theta)
        return float((class_weight * torch.nn.functional.softplus(-margin)).sum() + 0.5 * (penalty * theta**2).sum())

    theta = torch.zeros(d + 1, dtype=z.dtype)
    current = loss(theta)
    for _ in range(max_steps):
        p = torch.sigmoid(-sign * (design @ theta))
        gradient = design.T @ (-class_weight * sign * p) + penalty * theta
        curvature = (class_weight * p * (1 - p)).clamp(min=1e-12)
        hessian = design.T @ (design * curvature[:, None]) + torch.diag(penalty)
        step = torch.linalg.solve(hessian, gradient)
        decrement = float(gradient @ step)
        if decrement < 1e-12 * n:
            break
        length = 1.0
        while (proposal := loss(theta - length * step)) > current - 1e-4 * length * decrement and length > 1e-8:
            length /= 2
        theta, current = theta - length * step, proposal
    return theta[:-1], float(theta[-1])
