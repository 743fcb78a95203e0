"""Reading files that others wrote: every tensor is named and shaped as its format says, or the file is refused.

Names decide what a tensor is and how it lies; a shape is only checked. A square matrix is therefore never guessed at.
"""

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from saeaudit.artifacts import read_json
from saeaudit.errors import ArtifactError
from saeaudit.interop.torch_file import read_torch_file

InputFactors = tuple[float, float]


def refuse(file: Path, what: str, do: str, *, code: str) -> ArtifactError:
    """Return the error for a foreign file."""
    return ArtifactError(f"{file} cannot be used: {what}; {do}", code=code)


def inexpressible(file: Path, what: str) -> ArtifactError:
    """Return the error for a dictionary that the other side has no form for."""
    return ArtifactError(f"{file}: {what}", code="not-expressible")


def _broken(file: Path, what: str) -> ArtifactError:
    return refuse(file, what, "copy it again", code="artifact-broken")


def read_tensors(file: Path) -> dict[str, Any]:
    """Return the tensors of a `.safetensors`, `.npz` or `.pt` file by name; a `.pt` file may hold other plain values.

    Raises:
        ArtifactError: no such file (`artifact-missing`), not what its name says or cut (`artifact-broken`), code in a
            `.pt` or `.npz` file (`unsafe-file`).
    """
    if not file.is_file():
        raise ArtifactError(
            f"{file} does not exist; the dictionary is incomplete, copy it again", code="artifact-missing"
        )
    if file.suffix == ".npz":
        return _read_npz(file)
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError:
            raise _broken(file, "it is not a complete safetensors file") from None
    found = read_torch_file(file)
    if not isinstance(found, dict):
        raise _broken(file, f"it holds a {type(found).__name__}, not a state_dict of named tensors")
    return dict(found)


def _read_npz(file: Path) -> dict[str, Any]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError, TypeError) as error:
        if "allow_pickle" in str(error):
            what = "it holds Python objects, so they were not opened"
            raise refuse(file, what, "save plain arrays", code="unsafe-file") from None
        raise _broken(file, "it is not a complete npz file of numbers") from None


def take(
    tensors: Mapping[str, Any],
    shapes: Mapping[str, str],
    *,
    file: Path,
    optional: Mapping[str, str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Return the tensors that a format names, floating ones in fp32.

    Args:
        tensors: what the file holds.
        shapes: name -> axis words, such as {"W_enc": "d F", "b_enc": "F", "k": ""}; a word is one size everywhere.
        file: for the error.
        optional: the same for names that may be absent.
        sizes: sizes of axis words that the configuration states.

    Raises:
        ArtifactError: names are missing (`keys-missing`) or foreign (`keys-unexpected`); a shape disagrees (`shape`);
            something is no tensor (`artifact-broken`) or not finite (`not-finite`).
    """
    known = {**shapes, **(optional or {})}
    for names, what, code in (
        (sorted(set(shapes) - set(tensors)), "it has no", "keys-missing"),
        (sorted(set(tensors) - set(known)), "it has also", "keys-unexpected"),
    ):
        if names:
            listed = f"{what} {', '.join(names)}; this kind of file has {', '.join(known)}"
            raise refuse(file, listed, "check the format and its version", code=code)
    bound = dict(sizes or {})
    taken = {}
    for name in (name for name in known if name in tensors):
        tensor = tensors[name]
        if not isinstance(tensor, Tensor):
            raise refuse(
                file, f"{name} is a {type(tensor).__name__}, no tensor", "copy it again", code="artifact-broken"
            )
        _check_shape(tensor, name, known[name].split(), bound, file)
        if not bool(torch.isfinite(tensor).all()):
            raise refuse(file, f"{name} holds NaN or infinity", "copy or train it again", code="not-finite")
        taken[name] = tensor.detach().float() if tensor.is_floating_point() else tensor
    return taken


def _check_shape(tensor: Tensor, name: str, words: list[str], bound: dict[str, int], file: Path) -> None:
    if tensor.dim() == len(words):
        for word, size in zip(words, tensor.shape, strict=True):
            bound.setdefault(word, size)
    expected = tuple(bound.get(word, 0) for word in words)
    if tuple(tensor.shape) != expected:
        transposed = " (transposed?)" if sorted(tensor.shape) == sorted(expected) else ""
        named = ", ".join(f"{word} = {bound.get(word, '?')}" for word in words) or "a single number"
        raise refuse(
            file,
            f"{name} is {tuple(tensor.shape)}{transposed} where ({named}) was expected",
            "tensors are never turned by guess: check the format",
            code="shape",
        )


def read_settings(file: Path) -> dict[str, Any]:
    """Return the JSON object in `file`.

    Raises:
        ArtifactError: no such file (`artifact-missing`), not a JSON object (`artifact-broken`).
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise _broken(file, f"it holds a {type(found).__name__}, not settings")
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the settings in a YAML file; a value tagged as a Python object becomes None and nothing runs.

    Raises:
        ArtifactError: no such file (`artifact-missing`), not a mapping (`artifact-broken`).
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise ArtifactError(f"{file} does not exist; copy it too", code="artifact-missing") from None
    except (yaml.YAMLError, ValueError):
        raise _broken(file, "it is not YAML") from None
    if not isinstance(found, dict):
        raise _broken(file, f"it holds a {type(found).__name__}, not settings")
    return found


def positive(settings: Mapping[str, Any], name: str, *, file: Path) -> int:
    """Return a whole number above 0.

    Raises:
        ArtifactError: it is absent or something else (code `config-invalid`).
    """
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise refuse(
            file,
            f"{name} is {value!r} where a whole number above 0 belongs",
            "check its version",
            code="config-invalid",
        )
    return value


def site_of(name: str | None, *patterns: str) -> str | None:
    """Return "layers.N" if `name` is one of `patterns`, in which a group catches N."""
    for pattern in patterns:
        if name is not None and (match := re.fullmatch(pattern, name)):
            return f"layers.{int(match[1])}"
    return None


def lens_site(name: str | None) -> str | None:
    """Return "layers.N" for a residual stream in the names of TransformerLens; before block N is after block N - 1."""
    if name is not None and (before := re.fullmatch(r"blocks\.([1-9]\d*)\.hook_resid_pre", name)):
        return f"layers.{int(before[1]) - 1}"
    return site_of(name, r"blocks\.(\d+)\.hook_resid_post")


def scale_of_factors(factors: InputFactors | None, *, file: Path) -> Float[Tensor, "2"]:
    """Return the scale a side, raw units, of a crosscoder whose inputs were multiplied by `factors`.

    Raises:
        ArtifactError: none were given (`needs-calibration`), or they are not positive (`config-invalid`).
    """
    if factors is None:
        raise refuse(
            file,
            "its inputs were scaled by a factor a side, and its files do not hold them",
            "give them as input_factors=BASE,TUNED (with --set on the command line); 1,1 stands for raw activations",
            code="needs-calibration",
        )
    if not all(math.isfinite(factor) and factor > 0 for factor in factors):
        raise refuse(file, f"the input factors are {factors}", "give two numbers above 0", code="config-invalid")
    return torch.tensor(factors, dtype=torch.float64).reciprocal().float()
