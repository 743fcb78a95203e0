"""crosscode: `model.pt` with `model_cfg.yaml`; read only.

Facts of the format (from the public repository model-diffing; there is no package): a state_dict of
`W_enc_XiDiL` (model, hookpoint, d, latents), `W_dec_LXoDo` (latents, model, hookpoint, d) and biases, each name with a
leading underscore in later versions. The configuration names the activation. Inputs are multiplied by one factor a
model; a checkpoint says in `is_folded` that they were folded into the weights, else they are in no file.

A TopK of theirs may keep negative values where a row has fewer than k positive ones; none are kept here.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeaudit.interop.files import (
    InputFactors,
    inexpressible,
    positive,
    read_tensors,
    read_yaml,
    refuse,
    scale_of_factors,
    take,
)
from saeaudit.interop.portable import JumpRelu, Origin, Portable, Relu, Rule, TopK

WEIGHTS, CONFIG = "model.pt", "model_cfg.yaml"

_SHAPES = {"W_enc_XiDiL": "M P d F", "W_dec_LXoDo": "F M P d", "is_folded": ""}
_FACTORS = {"folded_scaling_factors_in_Xi": "M P", "folded_scaling_factors_out_Xo": "M P"}
_THRESHOLD = "activation_fn.log_threshold_L"


def read_crosscode(weights: Path, input_factors: InputFactors | None) -> Portable:
    """Return the crosscoder of two models in `weights`; `input_factors` multiply the activations of each side.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also no factors where they are not folded in, or a BatchTopK,
            which is stored without a threshold (`needs-calibration`); factors although they are folded in
            (`config-invalid`); several hookpoints or another activation (`not-expressible`).
    """
    config = read_yaml(weights.with_name(CONFIG))
    sizes = {name: positive(config, key, file=weights) for name, key in (("d", "d_model"), ("F", "n_latents"))}
    activation = (config.get("activation_fn") or {}).get("classname")
    shapes = _SHAPES | _FACTORS | ({_THRESHOLD: "F"} if activation == "AnthropicSTEJumpReLUActivation" else {})
    tensors = {name.removeprefix("_"): tensor for name, tensor in read_tensors(weights).items()}
    taken = take(tensors, shapes, file=weights, optional={"b_enc_L": "F", "b_dec_XoDo": "M P d"}, sizes=sizes)
    n_models, n_hookpoints = taken["W_enc_XiDiL"].shape[:2]
    if (n_models, n_hookpoints) != (2, 1):
        raise inexpressible(weights, f"it has {n_models} models at {n_hookpoints} hookpoints; two at one can be read")
    b_dec = taken["b_dec_XoDo"][:, 0] if "b_dec_XoDo" in taken else torch.zeros(2, sizes["d"])
    return Portable(
        "crosscoder",
        taken["W_enc_XiDiL"][:, 0].permute(2, 0, 1).contiguous(),
        taken.get("b_enc_L", torch.zeros(sizes["F"])),
        taken["W_dec_LXoDo"][:, :, 0].contiguous(),
        b_dec,
        torch.zeros_like(b_dec),
        _scale(bool(taken["is_folded"]), input_factors, weights),
        _rule(activation, config, taken, weights),
        Origin(metadata={"format": "crosscode", "activation_fn": activation}),
    )


def _scale(is_folded: bool, input_factors: InputFactors | None, weights: Path) -> Tensor:
    if not is_folded:
        return scale_of_factors(input_factors, file=weights)
    if input_factors is not None:
        what = "its weights hold the factors of the inputs already"
        raise refuse(weights, what, "leave input_factors out", code="config-invalid")
    return torch.ones(2)


def _rule(activation: str | None, config: dict[str, Any], taken: dict[str, Tensor], weights: Path) -> Rule:
    match activation:
        case "ReLUActivation":
            return Relu()
        case "AnthropicSTEJumpReLUActivation":
            return JumpRelu(taken[_THRESHOLD].exp())
        case "TopkActivation":
            return TopK(positive(config["activation_fn"].get("cfg") or {}, "k", file=weights))
        case "BatchTopkActivation":
            raise refuse(
                weights,
                "its BatchTopK is stored without a threshold: a row's code would depend on the rows beside it",
                "train it there with another activation",
                code="needs-calibration",
            )
        case _:
            known = "ReLUActivation, AnthropicSTEJumpReLUActivation and TopkActivation"
            raise inexpressible(weights, f"its activation is {activation!r}; {known} can be read")
