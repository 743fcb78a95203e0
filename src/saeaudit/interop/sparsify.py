"""sparsify (EleutherAI): `cfg.json` and `sae.safetensors` in a directory named after the hookpoint; read and written.

Facts of the format (from eai-sparsify 1.3): per-row TopK of the positive pre-activations. `W_dec` is (latents, d_in),
as `encoder.weight` is. `b_dec` is subtracted before encoding whatever `normalize_decoder` says. `num_latents` 0 means
d_in * expansion_factor. A transcoder, which reads one place and writes another, is no dictionary of activations.
"""

from pathlib import Path

from safetensors.torch import save_file

from saeaudit.artifacts import atomic_directory, write_json
from saeaudit.interop.files import inexpressible, positive, read_settings, read_tensors, site_of, take
from saeaudit.interop.portable import Origin, Portable, TopK, of_one_side, raw_weights

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"

_SHAPES = {"encoder.weight": "F d", "encoder.bias": "F", "W_dec": "F d", "b_dec": "d"}
_ONLY = {"activation": "topk", "transcode": False, "skip_connection": False, "signed": False}


def read_sparsify(weights: Path) -> Portable:
    """Return the dictionary in `weights`; `cfg.json` lies beside it.

    Raises:
        ArtifactError: see `read_tensors` and `take`; also a transcoder, or another activation than TopK
            (`not-expressible`).
    """
    file = weights.with_name(CONFIG)
    config = read_settings(file)
    for name, value in _ONLY.items():
        if config.get(name, value) != value:
            raise inexpressible(file, f"{name} is {config[name]!r}; only {value!r} can be read")
    d_model = positive(config, "d_in", file=file)
    n_latents = config.get("num_latents") or d_model * positive(config, "expansion_factor", file=file)
    taken = take(read_tensors(weights), _SHAPES, file=weights, sizes={"d": d_model, "F": n_latents})
    return of_one_side(
        taken["encoder.weight"],
        taken["encoder.bias"],
        taken["W_dec"],
        taken["b_dec"],
        rule=TopK(positive(config, "k", file=file)),
        subtracts_b_dec=True,
        origin=Origin(
            site_of(weights.parent.name, r"layers\.(\d+)", r"h\.(\d+)"), metadata={"format": "sparsify"} | config
        ),
    )


def write_sparsify(portable: Portable, directory: Path) -> None:
    """Write a TopK dictionary of activations, fp32, atomically; name `directory` after the hookpoint to keep the site.

    Raises:
        ArtifactError: another rule or kind (`not-expressible`).
        ResourceError: the disk is full or not writable.
    """
    if portable.kind != "sae":
        what = f"sparsify has no mark for a {portable.kind}, so it would be read as one of activations; use"
        raise inexpressible(directory, f"{what} {'saelens' if portable.kind == 'diff' else 'crosscoder_learning'}")
    if not isinstance(portable.rule, TopK):
        rule = type(portable.rule).__name__
        raise inexpressible(directory, f"sparsify has no rule {rule}; TopK can be written, use saelens")
    raw = raw_weights(portable)
    b_enc = raw.b_enc
    if not raw.subtracts_b_dec:
        b_enc = (b_enc.double() + raw.W_enc.double() @ raw.b_dec.double()).float()
    n_latents, d_model = raw.W_enc.shape
    tensors = {"encoder.weight": raw.W_enc, "encoder.bias": b_enc, "W_dec": raw.W_dec, "b_dec": raw.b_dec}
    config = {
        "activation": "topk",
        "expansion_factor": n_latents // d_model,
        "normalize_decoder": False,
        "num_latents": n_latents,
        "k": portable.rule.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d_model,
    }
    with atomic_directory(directory) as staging:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, staging / WEIGHTS)
        write_json(staging / CONFIG, config)
