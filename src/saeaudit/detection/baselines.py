"""The baselines by name: every one is fitted on the same selection rows and judged like the dictionary."""

from collections.abc import Mapping
from types import MappingProxyType

from saeaudit.detection.scorer import Fit
from saeaudit.detection.supervised import (
    fit_best_coordinate,
    fit_mean_direction,
    fit_probe_base,
    fit_probe_delta,
    fit_whitened_direction,
)
from saeaudit.detection.text_baseline import fit_text_only
from saeaudit.detection.unlabelled import (
    fit_aligned,
    fit_difference_norm,
    fit_mahalanobis_delta,
    fit_pca_energy,
    fit_pca_z,
    fit_relative_norm,
)

# Random directions are not here: they need the dictionary's firing rates (`fit_random_directions`).
BASELINES: Mapping[str, Fit] = MappingProxyType(
    {
        "text only": fit_text_only,
        "probe on the base": fit_probe_base,
        "difference norm": fit_difference_norm,
        "relative difference norm": fit_relative_norm,
        "PCA residual energy": fit_pca_energy,
        "PCA largest z": fit_pca_z,
        "Mahalanobis": fit_mahalanobis_delta,
        "aligned residual": fit_aligned,
        "mean difference": fit_mean_direction,
        "whitened mean difference": fit_whitened_direction,
        "linear probe": fit_probe_delta,
        "best single coordinate": fit_best_coordinate,
    }
)
