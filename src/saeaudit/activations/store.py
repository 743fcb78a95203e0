"""A sharded, memory-mapped store of paired activations.

For each site it keeps the base residual h_0 and, for each tuned side, the difference h_1 - h_0, both in bf16. The
difference is formed in fp32 *before* rounding: rounding h_0 and h_1 first would cost 24 % of a difference that is 1 %
of the residual, against 0.2 % this way, for the same bytes.

Layout of the directory: `manifest.json` (schema, what it was made from, finished units) and `unit-00000.safetensors`
with one tensor per (site, part). A unit is written under a temporary name and renamed, and the manifest is rewritten
after it; a file that the manifest does not name does not exist. So a killed harvest loses at most one unit.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saeaudit.artifacts import file_hash, read_json, write_bytes, write_json
from saeaudit.errors import ArtifactError, NumericsError

SCHEMA = 1
MANIFEST = "manifest.json"


class StoreWriter:
    """Write units of a store; reopening a directory continues after its last finished unit.

    Args:
        directory: of the store.
        made_from: everything that determines the contents; reopening with another value is refused.
        unit_rows: number of rows in each unit, in order.
        tensors: names of the tensors of a unit ("layers.13/base", "layers.13/tuned", ...).
    """

    def __init__(self, directory: Path, *, made_from: dict[str, Any], unit_rows: list[int], tensors: list[str]) -> None:
        self._directory = directory
        manifest = directory / MANIFEST
        if manifest.is_file():
            self._manifest = read_json(manifest, schema=SCHEMA)
            _same_origin(self._manifest["made_from"], made_from, directory)
        else:
            self._manifest = {
                "schema": SCHEMA,
                "made_from": made_from,
                "unit_rows": unit_rows,
                "tensors": tensors,
                "units": [],
            }
            write_json(manifest, self._manifest)

    @property
    def n_finished(self) -> int:
        """Number of units that are complete."""
        return len(self._manifest["units"])

    def write(self, tensors: dict[str, Float[Tensor, "row d_model"]]) -> None:
        """Append the next unit atomically.

        Raises:
            NumericsError: a value is NaN or infinite.
            ResourceError: the disk is full; finished units stay readable.
        """
        index = self.n_finished
        for name, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NumericsError(f"unit {index} has NaN or infinite values in {name}", code="non-finite")
        path = self._directory / _unit_name(index)
        write_bytes(path, save({name: t.to(torch.bfloat16).contiguous() for name, t in tensors.items()}))
        self._manifest["units"].append({"file": path.name, "bytes": path.stat().st_size, "sha256": file_hash(path)})
        write_json(self._directory / MANIFEST, self._manifest)


class ActivationStore:
    """Read a complete store; tensors are memory-mapped and only the rows asked for are copied."""

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        """Open `directory`.

        Args:
            directory: of the store.
            verify: also compare the sha256 of every file (sizes are always compared).

        Raises:
            ArtifactError: missing, of another schema, unfinished, short or damaged.
        """
        self.directory = directory
        manifest = read_json(directory / MANIFEST, schema=SCHEMA)
        rows = manifest["unit_rows"]
        if len(manifest["units"]) < len(rows):
            raise ArtifactError(
                f"the store {directory} has {len(manifest['units'])} of {len(rows)} units; run the same harvest again "
                "to finish it",
                code="store-unfinished",
            )
        self.made_from: dict[str, Any] = manifest["made_from"]
        self.tensors: list[str] = manifest["tensors"]
        self._starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
        self._units = [_open_unit(directory, unit, verify=verify) for unit in manifest["units"]]

    @property
    def n_rows(self) -> int:
        """Number of rows over all units."""
        return int(self._starts[-1])

    def read(self, name: str, rows: np.ndarray | None = None) -> Float[Tensor, "row d_model"]:
        """Return some rows of a tensor in fp32, in the order asked for (None: all).

        Raises:
            ArtifactError: there is no such tensor, or a row is out of range.
        """
        if name not in self.tensors:
            raise ArtifactError(
                f"the store {self.directory} has no tensor {name!r}; it has {', '.join(self.tensors)}",
                code="unknown-tensor",
            )
        if rows is None:
            rows = np.arange(self.n_rows)
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= self.n_rows):
            raise ArtifactError(f"rows must lie in 0..{self.n_rows - 1}", code="row-out-of-range")
        unit_of = np.searchsorted(self._starts, rows, side="right") - 1
        parts: list[tuple[Tensor, Tensor]] = []
        for unit in np.unique(unit_of):
            at = np.flatnonzero(unit_of == unit)
            local = torch.from_numpy(rows[at] - self._starts[unit])
            parts.append((torch.from_numpy(at), self._units[unit].get_tensor(name)[local].float()))
        if not parts:
            return torch.zeros(0, self._units[0].get_slice(name).get_shape()[1])
        out = torch.empty(len(rows), parts[0][1].shape[1])
        for at, values in parts:
            out[at] = values
        return out


def _open_unit(directory: Path, unit: dict[str, Any], *, verify: bool) -> Any:
    path = directory / unit["file"]
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; harvest again", code="shard-missing")
    size = path.stat().st_size
    if size != unit["bytes"]:
        raise ArtifactError(
            f"{path} has {size} bytes, the manifest says {unit['bytes']}; harvest again", code="shard-corrupt"
        )
    if verify and file_hash(path) != unit["sha256"]:
        raise ArtifactError(f"{path} does not have the sha256 of the manifest; harvest again", code="shard-corrupt")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ArtifactError(f"{path} is not readable: {error}; harvest again", code="shard-corrupt") from None


def _same_origin(found: dict[str, Any], asked: dict[str, Any], directory: Path) -> None:
    different = sorted(key for key in found.keys() | asked.keys() if found.get(key) != asked.get(key))
    if different:
        raise ArtifactError(
            f"{directory} was made from other settings: {', '.join(different)} differ; choose another directory, or "
            "delete it to harvest again",
            code="resume-mismatch",
        )


def _unit_name(index: int) -> str:
    return f"unit-{index:05d}.safetensors"
