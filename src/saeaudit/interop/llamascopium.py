"""Llamascopium (OpenMOSS): `sae_weights.safetensors` with `config.json`; read only.

Facts of the format (from the public repository OpenMOSS/Llamascopium): `W_E` is (d, latents), `W_D` is (latents, d); a
crosscoder has an axis of heads before these, one a hook point, and the encoder biases of its heads add up. Activations
are multiplied by sqrt(d) / their average norm over a data set, which is stored for each hook point under
`dataset_average_activation_norm.`, unless `norm_activation` is "inference": then no input is scaled and the stored
norms mean nothing. With `sparsity_include_decoder_norm` latents pass or compete by value times decoder norm.

Each head of a crosscoder passes by its own decoder norm: any rule but ReLU gives each side a code of its own.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saeaudit.interop.files import (
    inexpressible,
    lens_site,
    positive,
    read_settings,
    read_tensors,
    refuse,
    take,
)
from saeaudit.interop.portable import JumpRelu, Origin, Portable, Relu, Rule, TopK

WEIGHTS, CONFIG = "sae_weights.safetensors", "config.json"

_NORM, _THRESHOLD = "dataset_average_activation_norm.", "activation_function.log_jumprelu_threshold"
_UNIT = 1e-5


def read_llamascopium(weights: Path) -> Portable:
    """Return the sparse autoencoder, or the ReLU crosscoder of two models, in `weights`; `config.json` lies beside it.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also a transcoder, inputs normalised row by row, sides with codes
            of their own (`not-expressible`), or a BatchTopK, which is stored without a threshold (`needs-calibration`).
    """
    config = read_settings(weights.with_name(CONFIG))
    hooks = _hook_points(config, weights)
    is_crosscoder = config["sae_type"] == "crosscoder"
    heads = "M " if is_crosscoder else ""
    shapes = {"W_E": f"{heads}d F", "b_E": f"{heads}F", "W_D": f"{heads}F d"}
    if config.get("use_decoder_bias", True):
        shapes["b_D"] = f"{heads}d"
    if config.get("act_fn") == "jumprelu":
        shapes[_THRESHOLD] = "F"
    tensors = read_tensors(weights)
    scaled = config.get("norm_activation", "dataset-wise") == "dataset-wise"
    shapes |= {_NORM + hook: "" for hook in hooks if scaled}
    tensors = {name: tensor for name, tensor in tensors.items() if scaled or not name.startswith(_NORM)}
    taken = take(tensors, shapes, file=weights, sizes={"d": positive(config, "d_model", file=weights), "M": 2})
    W_dec = taken["W_D"].movedim(-2, 0).contiguous()
    axes = W_dec.shape[1:]
    scale = torch.tensor([float(taken[_NORM + hook]) / math.sqrt(axes[-1]) if scaled else 1.0 for hook in hooks])
    sites = {lens_site(hook) for hook in hooks}
    return Portable(
        "crosscoder" if is_crosscoder else "sae",
        taken["W_E"].movedim(-1, 0).contiguous(),
        taken["b_E"].sum(0) if is_crosscoder else taken["b_E"],
        W_dec,
        taken.get("b_D", torch.zeros(axes)),
        torch.zeros(axes),
        scale if is_crosscoder else scale[0],
        _rule(config, taken, W_dec, weights),
        Origin(sites.pop() if len(sites) == 1 else None, metadata={"format": "llamascopium"} | config),
    )


def _hook_points(config: dict[str, Any], weights: Path) -> list[str]:
    """Return the hook point of each side, after what no native dictionary can express was refused."""
    kind, norm = config.get("sae_type"), config.get("norm_activation", "dataset-wise")
    if kind == "crosscoder":
        hooks = [str(hook) for hook in config.get("hook_points") or []]
    else:
        hooks = list(dict.fromkeys(str(config.get(name)) for name in ("hook_point_in", "hook_point_out")))
    layers = {site for hook in hooks if (site := lens_site(hook))}
    problems = (
        (kind not in ("sae", "crosscoder"), f"its sae_type is {kind!r}; sae and crosscoder can be read"),
        (norm not in ("dataset-wise", "inference"), f"it normalises its input {norm}, which no affine map does"),
        (bool(config.get("use_glu_encoder")), "its encoder is gated by a second matrix (use_glu_encoder)"),
        (kind == "sae" and len(hooks) != 1, "it is a transcoder, which reads one place and writes another"),
        (kind == "crosscoder" and len(hooks) != 2, f"it has {len(hooks)} heads; a crosscoder of two models has 2"),
        (len(layers) > 1, "its heads are places of one model; a crosscoder here has one place of two models"),
        (
            kind == "crosscoder" and config.get("act_fn", "relu") != "relu",
            f"with {config.get('act_fn')} its sides have codes of their own, each by its own decoder norm",
        ),
    )
    for is_so, what in problems:
        if is_so:
            raise inexpressible(weights, what)
    return hooks


def _rule(config: dict[str, Any], taken: dict[str, Tensor], W_dec: Tensor, weights: Path) -> Rule:
    activation = config.get("act_fn", "relu")
    norms = torch.linalg.vector_norm(W_dec.double(), dim=-1)
    by_norm = config.get("sparsity_include_decoder_norm", True)
    match activation:
        case "relu":
            return Relu()
        case "jumprelu":
            threshold = taken[_THRESHOLD].double().exp()
            return JumpRelu((threshold / norms if by_norm else threshold).float())
        case "topk" if by_norm and bool(((norms - 1).abs() > _UNIT).any()):
            raise inexpressible(weights, "its latents compete by their decoder norms, which are not 1")
        case "topk":
            return TopK(positive(config, "top_k", file=weights))
        case "batchtopk":
            raise refuse(
                weights,
                "its BatchTopK is stored without a threshold: a row's code would depend on the rows beside it",
                "convert it to JumpReLU there and save it again",
                code="needs-calibration",
            )
        case _:
            raise inexpressible(weights, f"its act_fn is {activation!r}; relu, jumprelu and topk can be read")
