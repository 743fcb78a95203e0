"""crosscoder-model-diff-replication: `cc_weights.pt` with `cfg.json`, or `N.pt` with `N_cfg.json`; read only.

Facts of the format (from public forks of the repository of that name; there is no package): a ReLU crosscoder, `W_enc`
is (side, d_in, latents), `W_dec` is (latents, side, d_in), side 0 is the base. Training multiplies the activations of
each side by sqrt(d_in) / their mean norm. These factors stay in the training buffer and are in no file, so they must be
told.
"""

from pathlib import Path

from saeaudit.interop.files import (
    InputFactors,
    lens_site,
    positive,
    read_settings,
    read_tensors,
    scale_of_factors,
    take,
)
from saeaudit.interop.portable import Origin, Portable, Relu

WEIGHTS, CONFIG = "cc_weights.pt", "cfg.json"

_SHAPES = {"W_enc": "M d F", "b_enc": "F", "W_dec": "F M d", "b_dec": "M d"}


def read_model_diff_replication(weights: Path, input_factors: InputFactors | None) -> Portable:
    """Return the crosscoder in `weights`; `input_factors` multiply the activations of each side.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also no factors (`needs-calibration`).
    """
    config = read_settings(weights.with_name(CONFIG if weights.name == WEIGHTS else f"{weights.stem}_cfg.json"))
    sizes = {"M": 2, "d": positive(config, "d_in", file=weights), "F": positive(config, "dict_size", file=weights)}
    taken = take(read_tensors(weights), _SHAPES, file=weights, sizes=sizes)
    return Portable(
        "crosscoder",
        taken["W_enc"].permute(2, 0, 1).contiguous(),
        taken["b_enc"],
        taken["W_dec"],
        taken["b_dec"],
        taken["b_dec"].new_zeros(taken["b_dec"].shape),
        scale_of_factors(input_factors, file=weights),
        Relu(),
        Origin(
            lens_site(config.get("hook_point")),
            {"base": config["model_name"]} if "model_name" in config else {},
            {"format": "model_diff_replication"} | config,
        ),
    )
