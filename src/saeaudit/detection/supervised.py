"""Baselines fitted on trigger and benign rows: the directions a sparse dictionary has to beat."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.detection.rows import PairedRows
from saeaudit.detection.scorer import LinearScorer
from saeaudit.detection.splits import group_folds
from saeaudit.metrics import LinearScore, auroc, auroc_columns, fit_linear_probe, fit_mean_difference

PENALTIES = (1.0, 10.0, 100.0, 1000.0)


def fit_mean_direction(selection: PairedRows, *, seed: int = 0) -> LinearScorer:
    """Score vᵀΔ, v = mean Δ on trigger rows minus mean Δ on benign rows (B2). Labels: both."""
    return LinearScorer("mean difference", fit_mean_difference(selection.delta, selection.label))


def fit_whitened_direction(selection: PairedRows, *, seed: int = 0) -> LinearScorer:
    """Score vᵀΣ⁻¹Δ with the within-class covariance, Ledoit-Wolf (B2). Labels: both."""
    return LinearScorer("whitened mean difference", fit_mean_difference(selection.delta, selection.label, whiten=True))


def fit_probe_delta(selection: PairedRows, *, seed: int = 0) -> LinearScorer:
    """Score an L2-logistic probe on Δ (B3). Labels: both; the penalty is chosen by inner folds of groups."""
    linear = fit_probe_by_folds(selection.delta, selection.label, selection.group, seed=seed)
    return LinearScorer("linear probe", linear)


def fit_probe_base(selection: PairedRows, *, seed: int = 0) -> LinearScorer:
    """Score the same probe on the base residual alone (B0): what the prompt gives away without the tuned model."""
    linear = fit_probe_by_folds(selection.h0, selection.label, selection.group, seed=seed)
    return LinearScorer("probe on the base", linear, reads="h0")


def fit_best_coordinate(selection: PairedRows, *, seed: int = 0) -> LinearScorer:
    """Score the one coordinate of Δ, with its sign, that ranks the selection rows best (B4). Labels: both."""
    area = auroc_columns(selection.delta, selection.label)
    best = int((area - 0.5).abs().argmax())
    weight = torch.zeros(selection.delta.shape[1], dtype=torch.float64)
    weight[best] = 1.0 if area[best] >= 0.5 else -1.0
    return LinearScorer("best single coordinate", LinearScore(weight))


def fit_probe_by_folds(
    x: Float[Tensor, "row d_model"], label: Bool[Tensor, "row"], group: Int[Tensor, "row"], *, seed: int
) -> LinearScore:
    """Fit the probe with the penalty of the best mean AUROC over inner folds; the strongest among equals.

    Where groups are too few for folds, the strongest penalty is used.
    """
    folds = group_folds(group, label, n_folds=4, seed=seed)
    total = dict.fromkeys(PENALTIES, 0.0)
    if int(folds.max()) > 0:
        for fold in range(int(folds.max()) + 1):
            held_out = folds == fold
            if label[held_out].all() or not label[held_out].any() or label[~held_out].all():
                continue
            for l2 in PENALTIES:
                probe = fit_linear_probe(x[~held_out], label[~held_out], l2=l2)
                total[l2] += auroc(probe(x[held_out]), label[held_out])
    best = max(PENALTIES, key=lambda l2: (total[l2], l2))
    return fit_linear_probe(x, label, l2=best)
