"""Numbers with their uncertainty: dictionaries, isolation, ranking, intervals, estimators that baselines share."""

from saeaudit.metrics.aligned import AlignedResidual, fit_aligned_residual
from saeaudit.metrics.behaviour import SpliceDamage, SpliceReport
from saeaudit.metrics.bootstrap import (
    bootstrap_interval,
    percentile_bounds,
    percentile_interval,
    resample_weights,
    weighted_mean,
)
from saeaudit.metrics.code_statistics import CodeReport, CodeStatistics
from saeaudit.metrics.contrast import contrast_change, require_both_classes, trigger_contrast
from saeaudit.metrics.decoder_rows import (
    NormBins,
    RelativeNorms,
    decoder_bias,
    delta_norm,
    delta_norm_of_share,
    largest_cosine,
    norm_bins,
    relative_norms,
)
from saeaudit.metrics.dictionary_metrics import DictionaryMetrics, DictionaryReport
from saeaudit.metrics.difference_scaling import DifferenceReport, DifferenceRow, DifferenceScaling
from saeaudit.metrics.divergence import token_kl
from saeaudit.metrics.exclusivity import Exclusivity, ExclusivityReport, ExclusivityRow
from saeaudit.metrics.group_sums import GroupSums
from saeaudit.metrics.isolation import (
    IsolationStar,
    PaperBis,
    bis_ceiling,
    bis_star,
    bis_star_values,
    n_above_quantile,
    paper_bis,
)
from saeaudit.metrics.isolation_bootstrap import bis_resamples
from saeaudit.metrics.isolation_null import latent_permutation, null_best_of
from saeaudit.metrics.latent_scaling import LatentEstimate, LatentScaling, ScalingSums
from saeaudit.metrics.linear import LinearScore, fit_mean_difference
from saeaudit.metrics.linear_probe import fit_linear_probe
from saeaudit.metrics.mahalanobis import Mahalanobis, ShrunkCovariance, fit_mahalanobis, ledoit_wolf, stable_precision
from saeaudit.metrics.pca import Pca, fit_pca
from saeaudit.metrics.ranking import auroc, auroc_columns, auroc_interval, midranks, newcombe_interval
from saeaudit.metrics.reconstruction import Reconstruction, ReconstructionReport
from saeaudit.metrics.scaling_controls import ControlledScaling, density_matched
from saeaudit.metrics.splice import replacements, splice_damage, spliced_sides
from saeaudit.metrics.uncertainty import (
    Estimate,
    Interval,
    clopper_pearson,
    clustered_proportion,
    wilson,
    wilson_columns,
)

__all__ = [
    "AlignedResidual",
    "CodeReport",
    "CodeStatistics",
    "ControlledScaling",
    "DictionaryMetrics",
    "DictionaryReport",
    "DifferenceReport",
    "DifferenceRow",
    "DifferenceScaling",
    "Estimate",
    "Exclusivity",
    "ExclusivityReport",
    "ExclusivityRow",
    "GroupSums",
    "Interval",
    "IsolationStar",
    "LatentEstimate",
    "LatentScaling",
    "LinearScore",
    "Mahalanobis",
    "NormBins",
    "PaperBis",
    "Pca",
    "Reconstruction",
    "ReconstructionReport",
    "RelativeNorms",
    "ScalingSums",
    "ShrunkCovariance",
    "SpliceDamage",
    "SpliceReport",
    "auroc",
    "auroc_columns",
    "auroc_interval",
    "bis_ceiling",
    "bis_resamples",
    "bis_star",
    "bis_star_values",
    "bootstrap_interval",
    "clopper_pearson",
    "clustered_proportion",
    "contrast_change",
    "decoder_bias",
    "delta_norm",
    "delta_norm_of_share",
    "density_matched",
    "fit_aligned_residual",
    "fit_linear_probe",
    "fit_mahalanobis",
    "fit_mean_difference",
    "fit_pca",
    "largest_cosine",
    "latent_permutation",
    "ledoit_wolf",
    "midranks",
    "n_above_quantile",
    "newcombe_interval",
    "norm_bins",
    "null_best_of",
    "paper_bis",
    "percentile_bounds",
    "percentile_interval",
    "relative_norms",
    "replacements",
    "require_both_classes",
    "resample_weights",
    "splice_damage",
    "spliced_sides",
    "stable_precision",
    "token_kl",
    "trigger_contrast",
    "weighted_mean",
    "wilson",
    "wilson_columns",
]
