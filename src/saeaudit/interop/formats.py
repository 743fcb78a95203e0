"""Which format a file holds, and from one format to another.

A format is known by the name of its file of weights and, where two share one, by the configuration beside it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from saeaudit.config import invalid
from saeaudit.dictionaries import Dictionary, load_dictionary
from saeaudit.errors import ArtifactError
from saeaudit.interop import (
    crosscode,
    crosscoder_learning,
    dictionary_learning,
    gemma_scope,
    llamascopium,
    model_diff_replication,
    saelens,
    sparsify,
)
from saeaudit.interop.files import InputFactors, refuse
from saeaudit.interop.native import native_of, portable_of
from saeaudit.interop.portable import Portable

Format = Literal[
    "native",
    "saelens",
    "sparsify",
    "dictionary_learning",
    "gemma_scope",
    "crosscoder_learning",
    "model_diff_replication",
    "crosscode",
    "llamascopium",
]
Target = Literal["native", "saelens", "sparsify", "crosscoder_learning"]

_NAMES: dict[str, Format] = {
    "weights.safetensors": "native",
    saelens.WEIGHTS: "saelens",
    sparsify.WEIGHTS: "sparsify",
    gemma_scope.NPZ: "gemma_scope",
    gemma_scope.SAFETENSORS: "gemma_scope",
    crosscoder_learning.WEIGHTS: "crosscoder_learning",
    model_diff_replication.WEIGHTS: "model_diff_replication",
}
_READERS: dict[Format, Callable[[Path], Portable]] = {
    "saelens": saelens.read_saelens,
    "sparsify": sparsify.read_sparsify,
    "dictionary_learning": dictionary_learning.read_dictionary_learning,
    "gemma_scope": gemma_scope.read_gemma_scope,
    "crosscoder_learning": crosscoder_learning.read_crosscoder_learning,
    "llamascopium": llamascopium.read_llamascopium,
}
# Their files do not (always) hold the scale of the inputs.
_READERS_OF_SCALED: dict[Format, Callable[[Path, InputFactors | None], Portable]] = {
    "model_diff_replication": model_diff_replication.read_model_diff_replication,
    "crosscode": crosscode.read_crosscode,
}
_WRITERS: dict[Target, Callable[[Portable, Path], None]] = {
    "saelens": saelens.write_saelens,
    "sparsify": sparsify.write_sparsify,
    "crosscoder_learning": crosscoder_learning.write_crosscoder_learning,
}


class Conversion(BaseModel):
    """Settings of `convert`; frozen, unknown fields are refused.

    Attributes:
        to: what to write.
        format: what the source is; None decides by the names of its files.
        input_factors: see `read_dictionary`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Target = "native"
    format: Format | None = None
    input_factors: InputFactors | None = None


def convert(source: Path, out: Path, settings: Conversion) -> Dictionary:
    """Read a dictionary, write it in another format, and return it; codes and reconstructions stay the same.

    Raises:
        ArtifactError: see `read_dictionary` and `write_dictionary`.
        ResourceError: the disk is full or not writable.
    """
    dictionary = read_dictionary(source, format=settings.format, input_factors=settings.input_factors)
    write_dictionary(dictionary, out, format=settings.to)
    return dictionary


def read_dictionary(
    source: Path, *, format: Format | None = None, input_factors: InputFactors | None = None
) -> Dictionary:
    """Return a dictionary of any known format, ready for inference.

    Args:
        source: its directory, or its file of weights.
        format: what it is; None decides by the names of the files.
        input_factors: what the activations of the base and of the tuned model are multiplied by before encoding, for
            crosscoders whose files do not say.

    Raises:
        ArtifactError: no or several known files (`format-unknown`, `format-ambiguous`), a file that is broken, unsafe
            or not what its format says, factors that are missing or not wanted, or a dictionary that the native kinds
            cannot express.
    """
    weights, found = locate(source, format=format)
    try:
        if found in _READERS_OF_SCALED:
            return native_of(_READERS_OF_SCALED[found](weights, input_factors))
        if input_factors is not None:
            what = f"files of {found} hold the scale of their inputs"
            raise refuse(weights, what, "leave input_factors out", code="config-invalid")
        return load_dictionary(weights.parent) if found == "native" else native_of(_READERS[found](weights))
    except ValidationError as error:
        raise refuse(weights, str(invalid(error)), "check its configuration", code="config-invalid") from None


def write_dictionary(dictionary: Dictionary, directory: Path, *, format: Target = "native") -> None:
    """Write a dictionary in a format, as a directory that appears complete or not at all.

    Raises:
        ArtifactError: the format cannot express it (code `not-expressible`).
        ResourceError: the disk is full or not writable.
    """
    if format == "native":
        dictionary.save(directory)
    else:
        _WRITERS[format](portable_of(dictionary), directory)


def locate(source: Path, *, format: Format | None = None) -> tuple[Path, Format]:
    """Return the file of weights and its format.

    Raises:
        ArtifactError: nothing there (`artifact-missing`), no known file (`format-unknown`), several
            (`format-ambiguous`).
    """
    if not source.exists():
        raise ArtifactError(f"{source} does not exist; check the path", code="artifact-missing")
    files = sorted(source.iterdir()) if source.is_dir() else [source]
    known: dict[Path, Format] = {file: found for file in files if (found := _format_of(file))}
    if format is not None:
        known = {source: format} if source.is_file() else {f: found for f, found in known.items() if found == format}
    if not known:
        wanted = f"file of {format}" if format else "known file"
        raise ArtifactError(
            f"{source} holds no {wanted}; known are {', '.join(_NAMES)} and *.pt; name the file, with --from",
            code="format-unknown",
        )
    if len(known) > 1:
        listed = ", ".join(f"{file.name} ({found})" for file, found in known.items())
        raise ArtifactError(f"{source} holds several dictionaries: {listed}; name one file", code="format-ambiguous")
    return known.popitem()


def _format_of(file: Path) -> Format | None:
    if file.name == saelens.WEIGHTS and not file.with_name(saelens.CONFIG).is_file():
        return "llamascopium" if file.with_name(llamascopium.CONFIG).is_file() else "saelens"
    if file.suffix != ".pt" or file.name in _NAMES:
        return _NAMES.get(file.name)
    if file.with_name(crosscode.CONFIG).is_file():
        return "crosscode"
    has_config = file.with_name(dictionary_learning.CONFIG).is_file()
    is_crosscoder = has_config and "CrossCoder" in str(dictionary_learning.trainer_config(file).get("dict_class"))
    return "crosscoder_learning" if is_crosscoder else "dictionary_learning"
