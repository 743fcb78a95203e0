"""Baselines that need no trigger example: the size of the difference, and its distance from benign differences."""

import torch

from saeaudit.detection.rows import PairedRows
from saeaudit.detection.scorer import FunctionScorer
from saeaudit.metrics import fit_aligned_residual, fit_mahalanobis, fit_pca


def fit_difference_norm(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score ‖Δ‖ (B1). Labels: none; nothing is fitted."""
    return FunctionScorer("difference norm", "none", lambda rows: rows.delta.double().norm(dim=1))


def fit_relative_norm(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score ‖Δ‖/‖h0‖ (B1). Labels: none; nothing is fitted. A zero h0 does not divide: it scores ‖Δ‖/tiny or 0."""
    return FunctionScorer(
        "relative difference norm",
        "none",
        lambda rows: rows.delta.double().norm(dim=1) / rows.h0.double().norm(dim=1).clamp(min=1e-12),
    )


def fit_pca_energy(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score the squared distance of Δ to the span of benign components (B5). Labels: benign."""
    pca = fit_pca(selection.benign().delta)
    return FunctionScorer("PCA residual energy", "benign", lambda rows: pca.residual_energy(rows.delta))


def fit_pca_z(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score the largest |z| of Δ over benign components (B5). Labels: benign."""
    pca = fit_pca(selection.benign().delta)
    return FunctionScorer("PCA largest z", "benign", lambda rows: pca.largest_z(rows.delta))


def fit_mahalanobis_delta(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score the Mahalanobis distance of Δ to benign Δ (B6). Labels: benign."""
    distance = fit_mahalanobis(selection.benign().delta)
    return FunctionScorer("Mahalanobis", "benign", lambda rows: distance(rows.delta))


def fit_aligned(selection: PairedRows, *, seed: int = 0) -> FunctionScorer:
    """Score the Mahalanobis distance of what a ridge map of h0 leaves of h1 (B7). Labels: benign."""
    benign = selection.benign()
    aligned = fit_aligned_residual(benign.h0, benign.delta)
    return FunctionScorer("aligned residual", "benign", lambda rows: aligned(rows.h0, rows.delta))


def constant_scorer(method: str = "constant") -> FunctionScorer:
    """Score 0 for every row: the detector that sees nothing (AUROC .5, never flags)."""
    return FunctionScorer(method, "none", lambda rows: torch.zeros(len(rows), dtype=torch.float64), "control")
