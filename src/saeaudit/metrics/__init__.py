"""Numbers with their uncertainty: isolation, ranking, intervals, and the estimators that baselines share."""

from saeaudit.metrics.aligned import AlignedResidual, fit_aligned_residual
from saeaudit.metrics.bootstrap import bootstrap_interval, percentile_interval, resample_weights, weighted_mean
from saeaudit.metrics.contrast import contrast_change, require_both_classes, trigger_contrast
from saeaudit.metrics.divergence import token_kl
from saeaudit.metrics.isolation import IsolationStar, PaperBis, bis_ceiling, bis_star, n_above_quantile, paper_bis
from saeaudit.metrics.isolation_null import latent_permutation, null_best_of
from saeaudit.metrics.linear import LinearScore, fit_mean_difference
from saeaudit.metrics.linear_probe import fit_linear_probe
from saeaudit.metrics.mahalanobis import Mahalanobis, ShrunkCovariance, fit_mahalanobis, ledoit_wolf, stable_precision
from saeaudit.metrics.pca import Pca, fit_pca
from saeaudit.metrics.ranking import auroc, auroc_columns, auroc_interval, midranks, newcombe_interval
from saeaudit.metrics.uncertainty import Estimate, Interval, clopper_pearson, clustered_proportion, wilson

__all__ = [
    "AlignedResidual",
    "Estimate",
    "Interval",
    "IsolationStar",
    "LinearScore",
    "Mahalanobis",
    "PaperBis",
    "Pca",
    "ShrunkCovariance",
    "auroc",
    "auroc_columns",
    "auroc_interval",
    "bis_ceiling",
    "bis_star",
    "bootstrap_interval",
    "clopper_pearson",
    "clustered_proportion",
    "contrast_change",
    "fit_aligned_residual",
    "fit_linear_probe",
    "fit_mahalanobis",
    "fit_mean_difference",
    "fit_pca",
    "latent_permutation",
    "ledoit_wolf",
    "midranks",
    "n_above_quantile",
    "newcombe_interval",
    "null_best_of",
    "paper_bis",
    "percentile_interval",
    "require_both_classes",
    "resample_weights",
    "stable_precision",
    "token_kl",
    "trigger_contrast",
    "weighted_mean",
    "wilson",
]
