"""crosscoder_learning: crosscoders in `model.safetensors` (or a `.pt` state) with `config.json`; read and written.

Facts of the format (from the public repository; the package is not on PyPI): `encoder.weight` is (side, d, latents),
`decoder.weight` (side, latents, d), side 0 is the base. Inputs are (x - activation_mean) * activation_global_scale with
one scale a side; a mean of NaN stands for no normalisation. A BatchTopK crosscoder keeps a latent where its value times
a weight exceeds `threshold`; `code_normalization_id` names the weight, made from the norms of the decoder rows:
1 their sum over sides, 2 the norm of both rows as one, 3 a mixture of both, 4 none, 5 one decision a side. A file
without the id is older than the choice and means 1. `_orig_mod.` is a trace of torch.compile.

Weights 1 to 4 are scores of the native rule. A mixture in other proportions than the usual 1 (joint norm) to 0.1 (sum)
becomes a threshold a latent, threshold / weight.
"""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saeaudit.artifacts import atomic_directory, write_json
from saeaudit.dictionaries import Score
from saeaudit.interop.dictionary_learning import estimated, trainer_config
from saeaudit.interop.files import inexpressible, read_tensors, refuse, take
from saeaudit.interop.portable import BatchTopK, JumpRelu, Origin, Portable, Relu, Rule

WEIGHTS, CONFIG = "model.safetensors", "config.json"
SUM, MIXED, PER_SIDE = 1, 3, 5
_SCORES: dict[int, Score] = {SUM: "sum", 2: "concat", MIXED: "mixed", 4: "none"}
_CLASS_NAMES = {SUM: "CROSSCODER", 2: "SAE", MIXED: "MIXED", 4: "NONE"}
_PROPORTIONS = {"code_normalization_alpha_sae": 1.0, "code_normalization_alpha_cc": 0.1}

_SHAPES = {
    "encoder.weight": "M d F",
    "encoder.bias": "F",
    "decoder.weight": "M F d",
    "decoder.bias": "M d",
}
_INPUT = {"activation_mean": "M d", "activation_std": "M d", "activation_global_scale": "M", "target_rms": ""}
_BATCHTOPK = {"k": "", "threshold": ""}


def read_crosscoder_learning(weights: Path) -> Portable:
    """Return the crosscoder of two models in `weights`.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also sides with codes of their own or without an encoder
            (`not-expressible`), an unknown `code_normalization_id` (`format-version`), or a threshold that was never
            estimated (`needs-calibration`).
    """
    config = trainer_config(weights)
    if config.get("encoder_layers") is not None:
        raise inexpressible(weights, "it encodes some of its sides only (encoder_layers)")
    tensors = {name.removeprefix("_orig_mod."): tensor for name, tensor in read_tensors(weights).items()}
    named = {"code_normalization_id": tensors.pop("code_normalization_id", torch.tensor(SUM))}
    weighing = int(take(named, {"code_normalization_id": ""}, file=weights)["code_normalization_id"])
    if weighing == PER_SIDE:
        raise inexpressible(weights, "its sides have codes of their own (code_normalization_id 5)")
    if weighing not in _SCORES:
        raise refuse(weights, f"its code_normalization_id is {weighing}", "1 to 4 can be read", code="format-version")
    mean = torch.as_tensor(tensors.get("activation_mean", math.nan))
    if normalised := not bool(mean.isnan().any()):
        shapes = _SHAPES | _INPUT
    else:
        shapes = _SHAPES
        tensors = {name: tensor for name, tensor in tensors.items() if name not in _INPUT}
    if "threshold" in tensors:
        shapes = shapes | _BATCHTOPK
    taken = take(tensors, shapes, file=weights, sizes={"M": 2})
    W_dec = taken["decoder.weight"].permute(1, 0, 2).contiguous()
    return Portable(
        "crosscoder",
        taken["encoder.weight"].permute(2, 0, 1).contiguous(),
        taken["encoder.bias"],
        W_dec,
        taken["decoder.bias"],
        taken["activation_mean"] if normalised else torch.zeros_like(taken["decoder.bias"]),
        taken["activation_global_scale"].double().reciprocal().float() if normalised else torch.ones(2),
        _rule(taken, W_dec, weighing, config, weights),
        Origin(metadata={"format": "crosscoder_learning"} | config),
    )


def _rule(taken: dict[str, Tensor], W_dec: Tensor, weighing: int, config: dict[str, Any], weights: Path) -> Rule:
    if "threshold" not in taken:
        return Relu()
    threshold = estimated(taken["threshold"], weights)
    proportions = {name: float(config.get(name, usual)) for name, usual in _PROPORTIONS.items()}
    if weighing != MIXED or proportions == _PROPORTIONS:
        return BatchTopK(int(taken["k"]), threshold, _SCORES[weighing])
    norms = torch.linalg.vector_norm(W_dec.double(), dim=-1)
    joint, total = proportions.values()
    return JumpRelu((threshold / (joint * torch.linalg.vector_norm(norms, dim=-1) + total * norms.sum(-1))).float())


def write_crosscoder_learning(portable: Portable, directory: Path) -> None:
    """Write a ReLU or BatchTopK crosscoder, fp32, atomically.

    `activation_std` and `target_rms` are such that they give `activation_global_scale`, as that package computes it.

    Raises:
        ArtifactError: one side only, or another rule (`not-expressible`).
        ResourceError: the disk is full or not writable.
    """
    if portable.kind != "crosscoder":
        raise inexpressible(directory, f"crosscoder_learning holds crosscoders, this is a {portable.kind}; use saelens")
    if not isinstance(portable.rule, Relu | BatchTopK):
        rule = type(portable.rule).__name__
        raise inexpressible(directory, f"crosscoder_learning has no rule {rule}; ReLU and BatchTopK can be written")
    n_latents, n_sides, d_model = portable.W_enc.shape
    tensors = {
        "encoder.weight": portable.W_enc.permute(1, 2, 0),
        "encoder.bias": portable.b_enc,
        "decoder.weight": portable.W_dec.permute(1, 0, 2),
        "decoder.bias": portable.b_dec,
        "activation_mean": portable.shift,
        "activation_std": portable.scale[:, None].expand_as(portable.shift),
        "activation_global_scale": portable.scale.double().reciprocal().float(),
        "target_rms": torch.tensor(math.sqrt(d_model)),
    }
    config: dict[str, Any] = {
        "activation_dim": d_model,
        "dict_size": n_latents,
        "num_layers": n_sides,
        "target_rms": math.sqrt(d_model),
    }
    weighing = SUM
    if isinstance(portable.rule, BatchTopK):
        config["k"] = portable.rule.k
        tensors |= {"k": torch.tensor(portable.rule.k), "threshold": torch.tensor(portable.rule.threshold)}
        weighing = next(number for number, score in _SCORES.items() if score == portable.rule.score)
    config["code_normalization"] = _CLASS_NAMES[weighing]
    tensors["code_normalization_id"] = torch.tensor(weighing)
    with atomic_directory(directory) as staging:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staging / WEIGHTS)
        write_json(staging / CONFIG, config)
