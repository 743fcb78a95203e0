"""A linear score, and the two that need no optimiser: the difference of the class means, plain and whitened."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.metrics.contrast import require_both_classes
from saeaudit.metrics.mahalanobis import ledoit_wolf, stable_precision


@dataclass(frozen=True)
class LinearScore:
    """`x @ weight + bias` (fp64); higher is more trigger-like."""

    weight: Float[Tensor, "d_model"]
    bias: float = 0.0

    def __call__(self, x: Float[Tensor, "row d_model"]) -> Float[Tensor, "row"]:
        """Return one score a row."""
        return x.double() @ self.weight + self.bias


def fit_mean_difference(
    x: Float[Tensor, "row d_model"], positive: Bool[Tensor, "row"], *, whiten: bool = False
) -> LinearScore:
    """Fit the direction from the mean of the negatives to the mean of the positives, offset to 0 halfway.

    With `whiten`, it is multiplied by the inverse of the within-class covariance (Ledoit-Wolf): Fisher's discriminant.

    Raises:
        EvidenceError: only one class is present.
    """
    require_both_classes(positive, "a mean difference")
    x = x.double()
    up, down = x[positive].mean(0), x[~positive].mean(0)
    weight = up - down
    if whiten:
        within = torch.where(positive[:, None], x - up, x - down)
        weight = stable_precision(ledoit_wolf(within).covariance) @ weight
    return LinearScore(weight, -float((up + down) / 2 @ weight))
