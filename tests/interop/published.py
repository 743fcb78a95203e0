"""Files of formats without a package to ask, and what they mean, written again in numpy from their descriptions.

Gemma Scope, crosscoder_learning, model_diff_replication, crosscode and Llamascopium: the expected codes and
reconstructions are a second computation of the published formats and not the peer's own. Everything is fp64.
"""

import json
from typing import NamedTuple

import numpy as np
import torch
from safetensors.numpy import save_file

D, F, K, ROWS, SIDES = 6, 18, 3, 8, 2


class Case(NamedTuple):
    x: np.ndarray
    f: np.ndarray
    x_hat: np.ndarray


def gemma_scope(directory, *, release, lower=False, seed=0) -> Case:
    """JumpReLU of x W_enc + b_enc; `release` 1 is an npz, 2 safetensors with a configuration."""
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(D, F)), rng.normal(size=(F, D))
    b_enc, b_dec, threshold = 0.3 * rng.normal(size=F), rng.normal(size=D), rng.uniform(0.2, 2, size=F)
    x = 2 * rng.normal(size=(ROWS, D)) + np.linspace(-3, 3, D)
    pre = x @ W_enc + b_enc
    f = np.where(pre > threshold, np.maximum(pre, 0), 0)
    arrays = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": threshold}
    arrays = {name.lower() if lower else name: array.astype(np.float32) for name, array in arrays.items()}
    directory.mkdir(parents=True)
    if release == 1:
        np.savez(directory / "params.npz", **arrays)
    else:
        save_file(arrays, directory / "params.safetensors")
        config = {"architecture": "jump_relu", "model_name": "gemma", "hf_hook_point_in": "model.layers.3.output"}
        (directory / "config.json").write_text(json.dumps(config))
    return Case(x, f, f @ W_dec + b_dec)


def crosscoder_learning(
    directory, *, weighing=1, batchtopk=True, normalised=True, compiled=False, joint=1.0, total=0.1, seed=0
) -> Case:
    """A BatchTopK or ReLU crosscoder; `weighing` is its code_normalization_id, 3 the mixture of `joint` and `total`."""
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(SIDES, D, F)), rng.normal(size=(SIDES, F, D))
    W_dec *= rng.uniform(0.2, 1.5, size=(SIDES, F, 1))
    b_enc, b_dec = 0.3 * rng.normal(size=F), rng.normal(size=(SIDES, D))
    mean, std, target_rms = rng.normal(size=(SIDES, D)), rng.uniform(0.5, 3, size=(SIDES, D)), np.sqrt(D)
    scale = target_rms / np.sqrt((std**2).sum(-1) + 1e-8)
    threshold = 2.0
    x = mean + std * rng.normal(size=(ROWS, SIDES, D))

    scaled = (x - mean) * scale[:, None] if normalised else x
    f = np.maximum(np.einsum("bmd,mdf->bf", scaled, W_enc) + b_enc, 0)
    norms = np.sqrt((W_dec**2).sum(-1))
    together = np.sqrt((W_dec**2).sum((0, 2)))
    mixed = joint * together + total * norms.sum(0)
    weight = {1: norms.sum(0), 2: together, 3: mixed, 4: np.ones(F)}[weighing]
    if batchtopk:
        f = f * (f * weight > threshold)
    x_hat = np.einsum("bf,mfd->bmd", f, W_dec) + b_dec
    if normalised:
        x_hat = x_hat / (scale[:, None] + 1e-8) + mean

    arrays = {"encoder.weight": W_enc, "encoder.bias": b_enc, "decoder.weight": W_dec, "decoder.bias": b_dec}
    nothing = np.full((SIDES, D), np.nan)
    arrays |= {"activation_mean": mean if normalised else nothing, "activation_std": std if normalised else nothing}
    arrays |= {"activation_global_scale": scale if normalised else np.ones(SIDES), "target_rms": np.array(target_rms)}
    arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    arrays["code_normalization_id"] = np.array(weighing)
    if batchtopk:
        arrays |= {"k": np.array(K, np.int32), "threshold": np.array(threshold, np.float32)}
    directory.mkdir(parents=True)
    save_file({("_orig_mod." if compiled else "") + n: a for n, a in arrays.items()}, directory / "model.safetensors")
    config = {"activation_dim": D, "dict_size": F, "num_layers": SIDES} | ({"k": K} if batchtopk else {})
    if (joint, total) != (1.0, 0.1):
        config |= {"code_normalization_alpha_sae": joint, "code_normalization_alpha_cc": total}
    (directory / "config.json").write_text(json.dumps(config))
    return Case(x, f, x_hat)


def model_diff_replication(directory, *, factors=(0.4, 2.5), seed=0) -> Case:
    """A ReLU crosscoder of activations that were multiplied by `factors`, which no file holds."""
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(SIDES, D, F)), 0.3 * rng.normal(size=(F, SIDES, D))
    b_enc, b_dec = 0.3 * rng.normal(size=F), rng.normal(size=(SIDES, D))
    scaled = 2 * rng.normal(size=(ROWS, SIDES, D))
    f = np.maximum(np.einsum("bmd,mdf->bf", scaled, W_enc) + b_enc, 0)
    x_hat = np.einsum("bf,fmd->bmd", f, W_dec) + b_dec
    arrays = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}
    directory.mkdir(parents=True)
    torch.save({n: torch.tensor(a, dtype=torch.float32) for n, a in arrays.items()}, directory / "cc_weights.pt")
    config = {"d_in": D, "dict_size": F, "model_name": "tiny", "hook_point": "blocks.4.hook_resid_pre"}
    (directory / "cfg.json").write_text(json.dumps(config))
    by = np.array(factors)[:, None]
    return Case(scaled / by, f, x_hat / by)


def crosscode(directory, *, activation="relu", factors=None, biases=True, underscores=True, seed=0) -> Case:
    """A crosscoder of raw activations, or of activations that were multiplied by `factors`, which no file holds."""
    rng = np.random.default_rng(seed)
    W_enc, W_dec = rng.normal(size=(SIDES, 1, D, F)), 0.3 * rng.normal(size=(F, SIDES, 1, D))
    b_enc, b_dec = 0.3 * rng.normal(size=F), rng.normal(size=(SIDES, 1, D))
    log_threshold = rng.uniform(-1, 1, size=F)
    scaled = 2 * rng.normal(size=(ROWS, SIDES, D))
    pre = np.einsum("bmd,mdf->bf", scaled, W_enc[:, 0]) + (b_enc if biases else 0)
    kth = np.sort(pre, axis=1)[:, -K, None]
    f = pre * {"relu": pre > 0, "jumprelu": pre > np.exp(log_threshold), "topk": pre >= kth}[activation]
    x_hat = np.einsum("bf,fmd->bmd", f, W_dec[:, :, 0]) + (b_dec[:, 0] if biases else 0)

    under = "_" if underscores else ""
    arrays = {f"{under}W_enc_XiDiL": W_enc, f"{under}W_dec_LXoDo": W_dec}
    arrays |= {"b_enc_L": b_enc, f"{under}b_dec_XoDo": b_dec} if biases else {}
    arrays |= {f"{under}activation_fn.log_threshold_L": log_threshold} if activation == "jumprelu" else {}
    arrays |= {f"folded_scaling_factors_{way}": np.full((SIDES, 1), 3.0) for way in ("in_Xi", "out_Xo")}
    state = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    directory.mkdir(parents=True)
    torch.save(state | {"is_folded": torch.tensor(factors is None)}, directory / "model.pt")
    name, own = {
        "relu": ("ReLUActivation", "{}"),
        "jumprelu": ("AnthropicSTEJumpReLUActivation", f"{{size: {F}, bandwidth: 0.1}}"),
        "topk": ("TopkActivation", f"{{k: {K}}}"),
    }[activation]
    text = f"activation_fn:\n  classname: {name}\n  cfg: {own}\nd_model: {D}\nn_latents: {F}\nn_models: {SIDES}\n"
    (directory / "model_cfg.yaml").write_text(text + "hookpoints: !!python/tuple [a]\n")
    by = np.array(factors or (1, 1))[:, None]
    return Case(scaled / by, f, x_hat / by)


def llamascopium(directory, *, act_fn="relu", crosscoder=False, normalised=True, seed=0) -> Case:
    """An SAE or a ReLU crosscoder; latents pass, or compete, by value times decoder norm."""
    rng = np.random.default_rng(seed)
    heads = SIDES if crosscoder else 1
    W_E, W_D = rng.normal(size=(heads, D, F)), 0.3 * rng.normal(size=(heads, F, D))
    b_E, b_D = 0.3 * rng.normal(size=(heads, F)), rng.normal(size=(heads, D))
    if act_fn == "topk":
        W_D /= np.sqrt((W_D**2).sum(-1, keepdims=True))
    average, log_threshold = rng.uniform(3, 30, size=heads), rng.uniform(-1, 1, size=F)
    scale = average / np.sqrt(D) if normalised else np.ones(heads)
    x = 2 * scale[:, None] * rng.normal(size=(ROWS, heads, D))
    pre = (np.einsum("bmd,mdf->bmf", x / scale[:, None], W_E) + b_E).sum(1)
    score = pre * np.sqrt((W_D[0] ** 2).sum(-1))
    kth = np.sort(score, axis=1)[:, -K, None]
    f = pre * {"relu": pre > 0, "jumprelu": score > np.exp(log_threshold), "topk": score >= kth}[act_fn]
    x_hat = (np.einsum("bf,mfd->bmd", f, W_D) + b_D) * scale[:, None]

    arrays = {"W_E": W_E, "b_E": b_E, "W_D": W_D, "b_D": b_D}
    arrays = arrays if crosscoder else {name: array[0] for name, array in arrays.items()}
    hooks = ["base.layer_3", "tuned.layer_3"] if crosscoder else ["blocks.3.hook_resid_post"]
    norms = average if normalised else np.full(heads, np.nan)
    arrays |= {f"dataset_average_activation_norm.{hook}": norm for hook, norm in zip(hooks, norms, strict=True)}
    arrays |= {"activation_function.log_jumprelu_threshold": log_threshold} if act_fn == "jumprelu" else {}
    arrays = {name: np.array(array, np.float32, order="C") for name, array in arrays.items()}
    directory.mkdir(parents=True)
    save_file(arrays, directory / "sae_weights.safetensors")
    config = {"d_model": D, "expansion_factor": F / D, "act_fn": act_fn, "top_k": K}
    config |= {"norm_activation": "dataset-wise" if normalised else "inference"}
    if crosscoder:
        config |= {"sae_type": "crosscoder", "hook_points": hooks}
    else:
        config |= {"sae_type": "sae", "hook_point_in": hooks[0], "hook_point_out": hooks[0]}
    (directory / "config.json").write_text(json.dumps(config))
    return Case(x, f, x_hat) if crosscoder else Case(x[:, 0], f, x_hat[:, 0])
