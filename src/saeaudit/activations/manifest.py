"""`manifest.json` of a store: what it was made from, and which of its units are finished."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from saeaudit.artifacts import read_json
from saeaudit.config import first_problem
from saeaudit.errors import ArtifactError

SCHEMA = 2
MANIFEST = "manifest.json"


class Unit(BaseModel):
    """Size and content hash of a finished unit; its file name follows from its number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """`manifest.json`; `units` holds None where a unit is not finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: int = Field(default=SCHEMA, alias="schema")
    made_from: dict[str, Any]
    unit_rows: list[int]
    tensors: list[str] = Field(min_length=1)
    units: list[Unit | None]


def continued(directory: Path, asked: Manifest) -> Manifest:
    """Return the manifest to go on with: that of the directory without units whose file is gone, or `asked`.

    Raises:
        ArtifactError: the directory holds a store made from something else (`resume-mismatch`), or a broken one.
    """
    if not (directory / MANIFEST).is_file():
        return asked
    found = read_manifest(directory)
    _same_origin(found, asked, directory)
    kept = [u if u and is_whole(unit_path(directory, i), u) else None for i, u in enumerate(found.units)]
    return found.model_copy(update={"units": kept})


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of a store.

    Raises:
        ArtifactError: it is missing, of another schema, or broken.
    """
    value = read_json(directory / MANIFEST, schema=SCHEMA)
    try:
        manifest = Manifest.model_validate(value)
    except ValidationError as error:
        problem = first_problem(error)
    else:
        if len(manifest.units) == len(manifest.unit_rows) > 0:
            return manifest
        problem = f"{len(manifest.units)} units, {len(manifest.unit_rows)} row counts"
    raise ArtifactError(
        f"{directory / MANIFEST} is not the manifest of a store: {problem}; delete {directory} and harvest again",
        code="artifact-broken",
    )


def is_whole(path: Path, unit: Unit) -> bool:
    """Return whether the file of a unit has its size."""
    return path.is_file() and path.stat().st_size == unit.bytes


def _same_origin(found: Manifest, asked: Manifest, directory: Path) -> None:
    ours, theirs = ({**m.made_from, "unit_rows": m.unit_rows, "tensors": m.tensors} for m in (asked, found))
    different = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    if different:
        raise ArtifactError(
            f"{directory} was made from other settings: {', '.join(different)} differ; choose another directory, or "
            "delete it to harvest again",
            code="resume-mismatch",
        )


def unit_path(directory: Path, index: int) -> Path:
    """Return where a unit lies."""
    return directory / f"unit-{index:05d}.safetensors"
