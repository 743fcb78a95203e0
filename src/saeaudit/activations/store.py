"""A sharded, memory-mapped store of paired activations.

For each site it keeps the base residual h_0 and, for each tuned side, the difference h_1 - h_0, both in bf16. The
difference is formed in fp32 *before* rounding: rounding h_0 and h_1 first would cost 24 % of a difference that is 1 %
of the residual, against 0.2 % this way, for the same bytes.

Layout of the directory: `manifest.json` (schema, what it was made from, finished units) and `unit-00000.safetensors`
with one tensor per (site, part), the token of every row and the rows of every document. A unit is written under a
temporary name and renamed, and the manifest is rewritten after it; a file that the manifest does not name does not
exist. So a killed harvest loses at most one unit a process.
"""

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from saeaudit.activations.manifest import (
    MANIFEST,
    SCHEMA,
    Manifest,
    Unit,
    continued,
    is_whole,
    read_manifest,
    unit_path,
)
from saeaudit.artifacts import file_hash, remove_stale, write_bytes, write_json
from saeaudit.distributed import ALONE, Ranks
from saeaudit.errors import ArtifactError, ConfigError, NumericsError

STORED = torch.bfloat16
TOKENS, DOCUMENTS = "token_ids", "document_rows"


class UnitText(NamedTuple):
    """The text behind the rows of a unit, which holds whole documents.

    Attributes:
        token_ids: "row", token at whose position each row was read.
        document_rows: "doc", number of rows of each document; 0 for one that is too short to have any.
    """

    token_ids: Int[Tensor, " row"]
    document_rows: Int[Tensor, " doc"]


class StoreWriter:
    """Write units of a store; reopening a directory continues where it stopped, and redoes units whose file is gone.

    One writer at a time: hold `directory_lock` of the directory. The ranks of a run are one writer: they make it and
    call `write` together, each with a unit of its own, and the first of them keeps the manifest.

    Args:
        directory: of the store.
        made_from: everything that determines the contents, as JSON values; reopening with another value is refused.
        unit_rows: number of rows in each unit, in order.
        tensors: names of the tensors of a unit ("layers.13/base", "layers.13/tuned", ...).
        ranks: processes that write together.
    """

    def __init__(
        self,
        directory: Path,
        *,
        made_from: dict[str, Any],
        unit_rows: list[int],
        tensors: list[str],
        ranks: Ranks = ALONE,
    ) -> None:
        self._directory, self._ranks = directory, ranks
        asked = Manifest(
            schema=SCHEMA, made_from=made_from, unit_rows=unit_rows, tensors=tensors, units=[None] * len(unit_rows)
        )
        if ranks.leads:
            self._manifest = continued(directory, asked)
            remove_stale(directory)
            self._save()
        ranks.barrier()
        if not ranks.leads:
            self._manifest = read_manifest(directory)

    @property
    def missing(self) -> list[int]:
        """Numbers of the units that have to be written, in order."""
        return [i for i, unit in enumerate(self._manifest.units) if unit is None]

    def buffers(self, index: int, d_model: int) -> dict[str, Float[Tensor, "row d_model"]]:
        """Return the tensors of unit `index`, not filled, in the format of the store, so that none is copied later."""
        return {
            name: torch.empty(self._manifest.unit_rows[index], d_model, dtype=STORED) for name in self._manifest.tensors
        }

    def write(self, index: int, tensors: dict[str, Float[Tensor, "row d_model"]], text: UnitText) -> None:
        """Write unit `index` atomically; ranks call it together, and `skip` where they have no unit left.

        Raises:
            NumericsError: a value is NaN or infinite.
            ConfigError: names or numbers of rows are not those of the store.
            ResourceError: the disk is full; finished units stay readable.
        """
        self._record({index: self._write_file(index, tensors, text)})

    def skip(self) -> None:
        """Take part in a `write` of other ranks without a unit of one's own."""
        self._record({})

    def _write_file(self, index: int, tensors: dict[str, Tensor], text: UnitText) -> Unit:
        n_rows = self._manifest.unit_rows[index]
        if sorted(tensors) != sorted(self._manifest.tensors) or any(len(t) != n_rows for t in tensors.values()):
            raise ConfigError(
                f"unit {index} needs {n_rows} rows of each of {', '.join(self._manifest.tensors)}; found "
                f"{', '.join(f'{name} {tuple(t.shape)}' for name, t in tensors.items())}",
                code="unit-shape",
            )
        if len(text.token_ids) != n_rows or int(text.document_rows.sum()) != n_rows:
            raise ConfigError(
                f"unit {index} has {n_rows} rows; found {len(text.token_ids)} tokens, and documents of "
                f"{int(text.document_rows.sum())} rows together",
                code="unit-shape",
            )
        stored = {name: t.to(STORED).contiguous() for name, t in tensors.items()}
        for name, tensor in stored.items():
            if not bool(torch.isfinite(tensor).all()):
                raise NumericsError(f"unit {index} has NaN or infinite values in {name}", code="non-finite")
        path = unit_path(self._directory, index)
        write_bytes(path, save(stored | {TOKENS: text.token_ids.int(), DOCUMENTS: text.document_rows.int()}))
        return Unit(bytes=path.stat().st_size, sha256=file_hash(path))

    def _record(self, written: dict[int, Unit]) -> None:
        units = list(self._manifest.units)
        for found in self._ranks.gather_json([(index, unit.model_dump()) for index, unit in written.items()]):
            for index, unit in found:
                units[index] = Unit(**unit)
        self._manifest = self._manifest.model_copy(update={"units": units})
        if self._ranks.leads:
            self._save()

    def _save(self) -> None:
        write_json(self._directory / MANIFEST, self._manifest.model_dump(by_alias=True))


class ActivationStore:
    """Read a complete store; tensors are memory-mapped and only the rows asked for are copied."""

    def __init__(self, directory: Path, *, verify: bool = False) -> None:
        """Open `directory`.

        Args:
            directory: of the store.
            verify: also compare the sha256 of every file (sizes and shapes are always compared).

        Raises:
            ArtifactError: missing, of another schema, unfinished (`store-unfinished`), a unit is gone (`shard-missing`)
                or damaged (`shard-corrupt`).
        """
        self.directory = directory
        manifest = read_manifest(directory)
        n_open = manifest.units.count(None)
        if n_open:
            raise ArtifactError(
                f"the store {directory} has {len(manifest.units) - n_open} of {len(manifest.units)} units; run the "
                "same harvest again to finish it",
                code="store-unfinished",
            )
        self.made_from: dict[str, Any] = manifest.made_from
        self.tensors: list[str] = manifest.tensors
        self._starts = np.concatenate([[0], np.cumsum(manifest.unit_rows)]).astype(np.int64)
        self._units = [
            _open_unit(unit_path(directory, i), unit, manifest.tensors, n_rows, verify=verify)
            for i, (unit, n_rows) in enumerate(zip(manifest.units, manifest.unit_rows, strict=True))
            if unit is not None
        ]

    @property
    def n_rows(self) -> int:
        """Number of rows over all units."""
        return int(self._starts[-1])

    @cached_property
    def document_bounds(self) -> np.ndarray:
        """First row of each document and, at the end, the number of rows: int64 "doc+1", never descending."""
        lengths = [unit.get_tensor(DOCUMENTS).numpy() for unit in self._units]
        return np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=np.int64)])

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Token at whose position each row was read: int32 "row"."""
        return np.concatenate([unit.get_tensor(TOKENS).numpy() for unit in self._units])

    def read(self, name: str, rows: np.ndarray | None = None) -> Float[Tensor, "row d_model"]:
        """Return some rows of a tensor in fp32, in the order asked for, repetitions included (None: all).

        Raises:
            ArtifactError: there is no such tensor (`unknown-tensor`), or a row number is out of range or not a whole
                number (`row-out-of-range`).
        """
        if name not in self.tensors:
            raise ArtifactError(
                f"the store {self.directory} has no tensor {name!r}; it has {', '.join(self.tensors)}",
                code="unknown-tensor",
            )
        rows = np.arange(self.n_rows) if rows is None else np.asarray(rows)
        whole = rows.size == 0 or np.issubdtype(rows.dtype, np.integer)
        if not whole or (rows.size and (rows.min() < 0 or rows.max() >= self.n_rows)):
            raise ArtifactError(
                f"rows must be whole numbers in 0..{self.n_rows - 1}; found {rows.dtype} from {rows.min()} to "
                f"{rows.max()}",
                code="row-out-of-range",
            )
        rows = rows.astype(np.int64)
        out = torch.empty(len(rows), self._units[0].get_slice(name).get_shape()[1])
        unit_of = np.searchsorted(self._starts, rows, side="right") - 1
        for unit in np.unique(unit_of):
            at = np.flatnonzero(unit_of == unit)
            local = torch.from_numpy(rows[at] - self._starts[unit])
            out[torch.from_numpy(at)] = self._units[unit].get_tensor(name)[local].float()
        return out


def _open_unit(path: Path, unit: Unit, tensors: list[str], n_rows: int, *, verify: bool) -> Any:
    if not path.is_file():
        raise ArtifactError(f"{path} is missing; run the same harvest again to make it", code="shard-missing")
    problem = None
    opened: Any = None
    if not is_whole(path, unit):
        problem = f"has {path.stat().st_size} bytes, the manifest says {unit.bytes}"
    elif verify and file_hash(path) != unit.sha256:
        problem = "does not have the sha256 of the manifest"
    else:
        try:
            opened = safe_open(path, framework="pt")
            shapes = {name: opened.get_slice(name).get_shape() for name in tensors}
            n_tokens, n_in_documents = opened.get_slice(TOKENS).get_shape(), int(opened.get_tensor(DOCUMENTS).sum())
            if any(len(shape) != 2 or shape[0] != n_rows for shape in shapes.values()):
                problem = f"has tensors of shapes {shapes}, the manifest says {n_rows} rows"
            elif n_tokens != [n_rows] or n_in_documents != n_rows:
                problem = f"has {n_tokens} tokens, documents of {n_in_documents} rows; the manifest says {n_rows} rows"
        except SafetensorError as error:
            problem = f"is not readable: {error}"
    if problem is not None:
        raise ArtifactError(
            f"{path} {problem}; delete it and run the same harvest again to make it", code="shard-corrupt"
        )
    return opened
