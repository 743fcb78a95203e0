"""SAELens: `cfg.json` and `sae_weights.safetensors`; versions up to 6 are read, 6 is written.

Facts of the format (from sae-lens 6.54): `W_enc` is (d_in, d_sae), `W_dec` is (d_sae, d_in). With
`apply_b_dec_to_input`, which is true when absent, the decoder bias is subtracted before encoding. BatchTopK
dictionaries are stored as JumpReLU. `rescale_acts_by_decoder_norm` (TopK) multiplies pre-activations by the decoder
norms and divides by them when decoding: the same dictionary with the norms moved into the encoder.

A Diff-SAE carries `metadata.diff`: the names of both models, and the sign 1 for tuned - base.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saeaudit import __version__
from saeaudit.artifacts import atomic_directory, write_json
from saeaudit.interop.files import inexpressible, lens_site, positive, read_settings, read_tensors, refuse, take
from saeaudit.interop.portable import (
    BatchTopK,
    JumpRelu,
    Origin,
    Portable,
    Relu,
    Rule,
    TopK,
    of_gates,
    of_one_side,
    raw_weights,
)

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
NEWEST = 6

_SHAPES = {"W_enc": "d F", "W_dec": "F d", "b_dec": "d"}
_MORE: dict[str, dict[str, str]] = {
    "standard": {"b_enc": "F"},
    "topk": {"b_enc": "F"},
    "jumprelu": {"b_enc": "F", "threshold": "F"},
    "gated": {"b_gate": "F", "b_mag": "F", "r_mag": "F"},
}
_NEW_NAMES = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_METADATA = ("model_name", "hook_name", "hook_head_index", "context_size", "prepend_bos")


def read_saelens(weights: Path) -> Portable:
    """Return the dictionary in `weights`; `cfg.json` lies beside it.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also a newer version (`format-version`), something that is no
            autoencoder with an affine input (`not-expressible`), or an input scale that is not in the files
            (`needs-calibration`).
    """
    file = weights.with_name(CONFIG)
    config = _current(read_settings(file), file)
    architecture = config.get("architecture", "standard")
    if architecture not in _MORE:
        raise inexpressible(file, f"its architecture is {architecture!r}; {', '.join(_MORE)} can be read")
    _check_input(config, file)
    sizes = {"d": positive(config, "d_in", file=file), "F": positive(config, "d_sae", file=file)}
    tensors = read_tensors(weights)
    if bool((torch.as_tensor(tensors.get("scaling_factor", 1.0)) == 1).all()):  # old files hold ones that do nothing
        tensors.pop("scaling_factor", None)
    taken = take(tensors, _SHAPES | _MORE[architecture], file=weights, sizes=sizes)
    k = positive(config, "k", file=file) if architecture == "topk" else 0
    rescaled = bool(config.get("rescale_acts_by_decoder_norm", False))
    W_enc, b_enc, W_dec, rule = _encoder(taken, architecture, k, rescaled=rescaled)
    diff = config["metadata"].get("diff")
    if diff is not None and diff.get("sign") != 1:
        raise inexpressible(file, f"its difference has the sign {diff.get('sign')!r}; 1, tuned - base, can be read")
    return of_one_side(
        W_enc,
        b_enc,
        W_dec,
        taken["b_dec"],
        rule=rule,
        subtracts_b_dec=bool(config.get("apply_b_dec_to_input", True)),
        origin=_origin(config["metadata"]),
        kind="sae" if diff is None else "diff",
    )


def _current(config: dict[str, Any], file: Path) -> dict[str, Any]:
    """Return the configuration in the terms of version 6."""
    version = (config.get("metadata") or {}).get("sae_lens_version") or config.get("sae_lens_version") or "5"
    major = str(version).partition(".")[0]
    if not major.isdigit() or int(major) > NEWEST:
        raise refuse(file, f"it is of SAELens {version}", f"versions up to {NEWEST} can be read", code="format-version")
    if int(major) == NEWEST:
        return config | {"metadata": config.get("metadata") or {}}
    config = {_NEW_NAMES.get(name, name): value for name, value in config.items()}
    activation = config.get("activation_fn", "relu")
    if activation == "topk":
        config |= {"architecture": "topk", "k": (config.get("activation_fn_kwargs") or {}).get("k")}
    elif activation != "relu":
        raise inexpressible(file, f"its activation is {activation!r}; relu and topk can be read")
    return config | {"metadata": {name: config[name] for name in _METADATA if name in config}}


def _check_input(config: dict[str, Any], file: Path) -> None:
    normalisation = config.get("normalize_activations") or "none"
    if normalisation in (True, "expected_average_only_in"):
        raise refuse(
            file,
            "its input is scaled by a factor that the files do not hold",
            "fold it in with SAELens (fold_activation_norm_scaling_factor) and save it again",
            code="needs-calibration",
        )
    if normalisation != "none":
        raise inexpressible(file, f"it normalises every row of its input ({normalisation}), which no affine map does")


def _encoder(
    taken: dict[str, Tensor], architecture: str, k: int, *, rescaled: bool
) -> tuple[Tensor, Tensor, Tensor, Rule]:
    """Return (W_enc, b_enc, W_dec, rule), rows by latent."""
    W_enc, W_dec = taken["W_enc"].T, taken["W_dec"]
    if architecture == "gated":
        W_enc, b_enc, rule = of_gates(W_enc, taken["b_gate"], taken["r_mag"], taken["b_mag"])
        return W_enc, b_enc, W_dec, rule
    b_enc = taken["b_enc"]
    if architecture == "topk" and rescaled:
        norms = torch.linalg.vector_norm(W_dec.double(), dim=1, keepdim=True).clamp_min(1e-12)
        W_enc, W_dec = (W_enc * norms).float(), (W_dec / norms).float()
        b_enc = (b_enc * norms.squeeze(1)).float()
    if architecture == "topk":
        return W_enc, b_enc, W_dec, TopK(k)
    return W_enc, b_enc, W_dec, JumpRelu(taken["threshold"]) if architecture == "jumprelu" else Relu()


def _origin(metadata: dict[str, Any]) -> Origin:
    diff = metadata.get("diff") or {"base": metadata.get("model_name")}
    models = {side: str(diff[side]) for side in ("base", "tuned") if diff.get(side)}
    site = lens_site(metadata.get("hook_name"))
    return Origin(site, models, {"format": "saelens"} | {name: metadata.get(name) for name in _METADATA})


def write_saelens(portable: Portable, directory: Path) -> None:
    """Write a one-sided dictionary as SAELens 6, fp32, atomically.

    Raises:
        ArtifactError: a crosscoder (`not-expressible`).
        ResourceError: the disk is full or not writable.
    """
    if portable.kind == "crosscoder":
        raise inexpressible(directory, "SAELens has no crosscoders; write this one as crosscoder_learning")
    raw = raw_weights(portable)
    n_latents, d_model = raw.W_enc.shape
    tensors = {"W_enc": raw.W_enc.T, "b_enc": raw.b_enc, "W_dec": raw.W_dec, "b_dec": raw.b_dec}
    config: dict[str, Any] = {
        "architecture": "standard",
        "d_in": d_model,
        "d_sae": n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": raw.subtracts_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": _metadata(portable),
    }
    match portable.rule:
        case JumpRelu(threshold):
            config["architecture"], tensors["threshold"] = "jumprelu", threshold
        case BatchTopK(_, threshold):
            config["architecture"], tensors["threshold"] = "jumprelu", torch.full((n_latents,), threshold)
        case TopK(k):
            config |= {"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": False}
        case Relu():
            pass
    with atomic_directory(directory) as staging:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staging / WEIGHTS)
        write_json(staging / CONFIG, config)


def _metadata(portable: Portable) -> dict[str, Any]:
    origin = portable.origin
    kept = {name: origin.metadata.get(name) for name in _METADATA}
    kept["model_name"] = origin.models.get("base")
    if origin.site is not None:
        kept["hook_name"] = f"blocks.{origin.site.removeprefix('layers.')}.hook_resid_post"
    if portable.kind == "diff":
        kept["diff"] = {side: origin.models.get(side) for side in ("base", "tuned")} | {"sign": 1}
    return kept | {"sae_lens_version": f"{NEWEST}.0.0", "saeaudit_version": __version__}
