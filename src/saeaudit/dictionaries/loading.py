"""Read a dictionary and prove that it still means what it meant.

Only JSON and safetensors are read. Steps: (1) config and its schema, (2) hashes of both tensor files, (3) names and
shapes of the weights, (4) replay of the golden vectors.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saeaudit.artifacts import file_hash, read_json
from saeaudit.dictionaries.base import Dictionary, Provenance
from saeaudit.dictionaries.build import KINDS, build
from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.config import DictionaryConfig
from saeaudit.dictionaries.saving import CONFIG, GOLDEN, SCHEMA, WEIGHTS
from saeaudit.errors import ArtifactError, ConfigError
from saeaudit.statistics import SiteStatistics

_RTOL = 1e-4


def load_dictionary(path: Path, *, replay: bool = True) -> Dictionary:
    """Return the dictionary saved at `path`, ready for inference.

    Args:
        path: directory written by `Dictionary.save`.
        replay: compute the golden vectors again and compare (relative tolerance 1e-4).

    Raises:
        ArtifactError: missing or broken file, another schema, unknown kind, foreign weights, golden mismatch.
    """
    path = Path(path)
    stored = read_json(path / CONFIG, schema=SCHEMA)
    config = _config(stored, path)
    weights = _tensors(path, WEIGHTS, stored)
    try:
        shape, n_stored = weights["shift"].shape, sum(tensor.numel() for tensor in weights.values())
        if config.n_latents * shape.numel() > n_stored:  # before memory is taken for what the config claims
            raise RuntimeError(f"{config.n_latents} latents of shape {tuple(shape)} do not fit in {n_stored} numbers")
        dictionary = build(config, SiteStatistics(torch.zeros(shape), torch.ones(shape[:-1]), 0), seed=0)
        dictionary.coder.load_state_dict(weights, strict=True)
        dictionary.provenance = Provenance(**{name: stored[name] for name in Provenance.__dataclass_fields__})
    except (RuntimeError, KeyError, TypeError, ConfigError) as error:
        raise _broken(path / WEIGHTS, f"its tensors are not those of a {config.kind} dictionary: {error}") from None
    dictionary.eval().requires_grad_(False)
    if replay:
        _replay(dictionary, _tensors(path, GOLDEN, stored), path)
    return dictionary


def _config(stored: dict[str, Any], path: Path) -> DictionaryConfig:
    if stored.get("kind") not in KINDS:
        raise ArtifactError(
            f"{path} holds a dictionary of kind {stored.get('kind')!r}; this version reads {', '.join(KINDS)}",
            code="unknown-kind",
        )
    try:
        config = DictionaryConfig.model_validate(stored.get("config"))
    except ValidationError as error:
        raise _broken(path / CONFIG, f"its settings are not valid: {error}") from None
    if config.kind != stored["kind"]:
        raise _broken(path / CONFIG, f"it names two kinds, {stored['kind']} and {config.kind}")
    return config


def _tensors(path: Path, name: str, stored: dict[str, Any]) -> dict[str, Tensor]:
    file = path / name
    if not file.is_file():
        raise ArtifactError(
            f"{file} does not exist; the dictionary is incomplete, copy it again", code="artifact-missing"
        )
    expected, found = stored.get("sha256", {}).get(name), file_hash(file)
    if expected != found:
        raise _broken(file, f"its sha256 is {found[:12]}..., config.json says {str(expected)[:12]}...")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _broken(file, f"it is not safetensors: {error}") from None


def _broken(file: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{file} cannot be used: {what}; copy or train the dictionary again", code="artifact-broken")


def _replay(dictionary: Dictionary, golden: dict[str, Tensor], path: Path) -> None:
    code = dictionary.encode(golden["x"])
    shape = (len(code.values), dictionary.n_latents)
    found = torch.zeros(shape).scatter_add_(1, code.indices, code.values)
    expected = torch.zeros(shape).scatter_add_(1, golden["indices"], golden["values"])
    size = float(expected.abs().max().clamp_min(1e-12))
    # A value within rounding of the threshold may be active on one platform only; that is not another meaning.
    weights, cutoffs = dictionary.coder.score_weights(), dictionary.coder.cutoffs()
    score = torch.maximum(found, expected) * (1.0 if weights is None else weights)
    flipped = ((found > 0) != (expected > 0)) & ((score - cutoffs).abs() <= 10 * _RTOL * cutoffs.clamp_min(size))
    x_hat = dictionary.decode(Code(golden["values"], golden["indices"]))
    code_error = float(torch.where(flipped, 0.0, found - expected).abs().max()) / size
    recon_error = float((x_hat - golden["x_hat"]).abs().max() / golden["x_hat"].abs().max().clamp_min(1e-12))
    if not max(code_error, recon_error) <= _RTOL:
        raise ArtifactError(
            f"{path} gives other codes than when it was saved: relative error {code_error:.1e} of the codes, "
            f"{recon_error:.1e} of the reconstructions, allowed {_RTOL:.0e} (torch {torch.__version__}, "
            f"{golden['x'].dtype}); the weights or the code that reads them changed: train it again, or load it with "
            "replay=False to look at it",
            code="golden-mismatch",
        )
