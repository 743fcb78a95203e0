"""Harvest base and tuned models at several sites in one pass over identical tokens.

1. Documents are cut into units of consecutive documents; inside a unit they are sorted by length and packed into
   batches by a token budget, so little is spent on padding.
2. A batch runs through the base once and through each tuned model; every run stops after the last needed block and
   never computes the final norm or the output head. One base pass serves any number of tuned models.
3. Rows are scattered to their place in document order, so packing is invisible in the store.
4. Several processes (`saeaudit.distributed`) take units in turn, and the store they write is that of one process.

Precision: GEMMs in bf16 where the CPU or GPU has fast bf16, the residual stream, norms and the difference in fp32 (see
`saeaudit.models.mixed`). A probe compares the differences with a full fp32 run and reports their
ratio to the noise, `delta_snr`: differences are small, and pure bf16 would drown the smallest.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from saeaudit.activations.documents import TokenisedDocuments
from saeaudit.activations.packing import cut_units, pack_batches
from saeaudit.activations.store import ActivationStore, StoreWriter, UnitText
from saeaudit.artifacts import directory_lock
from saeaudit.distributed import ALONE, Ranks
from saeaudit.errors import ConfigError, NumericsError
from saeaudit.models import Capture, LoadedModel, pad_rows, resolve_site, run_blocks
from saeaudit.models.mixed import is_mixed

BASE = "base"


class HarvestConfig(BaseModel):
    """Sizes of a harvest; none of them changes the numbers beyond rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_tokens: int = Field(default=2048, ge=1, description="padded tokens in a batch")
    unit_rows: int = Field(default=32768, ge=1, description="rows in a unit, the atom of resuming")


def tensor_name(site: str, side: str) -> str:
    """Return the name of a tensor in the store: the residual for side "base", else the difference to it."""
    return f"{site}/{side}"


def harvest(
    models: Mapping[str, LoadedModel],
    documents: TokenisedDocuments,
    sites: Sequence[str],
    config: HarvestConfig | None = None,
    *,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> ActivationStore:
    """Write the residuals of `models["base"]` and the differences of every other model to the store `out`.

    Args:
        models: side name to model; "base" is required.
        documents: tokenised once, with the base's tokenizer.
        sites: such as `["layers.13", "layers.17"]`; distinct, at least one.
        config: sizes.
        out: directory of the store; an unfinished harvest of the same inputs is continued, lost units are made again.
        progress: called with (documents done, documents) after each batch.
        ranks: processes that share the work; each must call with the same arguments. With equal threads and hardware
            the store is the same bytes for any number of them.

    Raises:
        ConfigError: no base, no sites, or a site twice.
        ModelError: unknown site.
        NumericsError: NaN or infinite activations; the text names site, document and position.
        ArtifactError: `out` holds a store made from something else, or another process writes it.
        ResourceError: the disk is full, or another rank stopped; finished units are kept.
    """
    config = config or HarvestConfig()
    plan = _plan(models, sites)
    units = cut_units(documents, config.unit_rows)
    unit_rows = [int(documents.offsets[u.stop] - documents.offsets[u.start]) for u in units]
    made_from = {
        "documents": documents.fingerprint(),
        "sites": list(sites),
        "models": {side: _identity(models[side]) for side in plan.sides},
    }
    with directory_lock(out) if ranks.leads else nullcontext():
        writer = StoreWriter(out, made_from=made_from, unit_rows=unit_rows, tensors=plan.tensors, ranks=ranks)
        missing = writer.missing
        done = len(documents.documents) - sum(len(units[k]) for k in missing)
        for start in range(0, len(missing), ranks.size):
            turn = missing[start : start + ranks.size]
            if ranks.rank < len(turn):
                k = turn[ranks.rank]
                buffers = writer.buffers(k, models[BASE].card.d_model)
                ready = 0
                for batch in pack_batches(documents, units[k], config.batch_tokens):
                    _fill(plan, documents, batch, buffers, int(documents.offsets[units[k].start]))
                    ready += len(batch)
                    if progress is not None:
                        progress(done + ready, len(documents.documents))
                writer.write(k, buffers, _text(documents, units[k]))
            else:
                writer.skip()
            done += sum(len(units[k]) for k in turn)
        ranks.barrier()  # the manifest is complete
    return ActivationStore(out)


def _text(documents: TokenisedDocuments, unit: range) -> UnitText:
    tokens = [token for i in unit for token in documents.ids[i][documents.skip_first :]]
    rows = np.diff(documents.offsets[unit.start : unit.stop + 1])
    return UnitText(torch.tensor(tokens, dtype=torch.int32), torch.from_numpy(rows))


@dataclass(frozen=True)
class _Plan:
    """What one pass computes: models by side, base first; sites; how many blocks to run."""

    models: Mapping[str, LoadedModel]
    sides: tuple[str, ...]
    sites: tuple[str, ...]
    depth: int

    @property
    def tensors(self) -> list[str]:
        return [tensor_name(site, side) for site in self.sites for side in self.sides]


def _plan(models: Mapping[str, LoadedModel], sites: Sequence[str]) -> _Plan:
    if BASE not in models or not sites or len(set(sites)) != len(sites):
        raise ConfigError(
            f"a harvest needs a model called {BASE!r} and distinct sites; found models {', '.join(models) or 'none'}, "
            f"sites {', '.join(sites) or 'none'}",
            code="harvest-inputs",
        )
    depth = 1 + max(resolve_site(models[BASE].model, site).index for site in sites)
    return _Plan(models, (BASE, *(side for side in models if side != BASE)), tuple(sites), depth)


def _identity(loaded: LoadedModel) -> dict[str, Any]:
    """Return what the numbers of a model depend on; where its files lie is not part of it."""
    precision = "mixed" if is_mixed(loaded.model) else str(loaded.model.dtype).removeprefix("torch.")
    return {"weights_sha256": loaded.card.weights_sha256, "precision": precision}


def _fill(
    plan: _Plan, documents: TokenisedDocuments, batch: Sequence[int], buffers: dict[str, Tensor], first_row: int
) -> None:
    """Write the rows of a batch of documents to their places in the buffers of a unit."""
    for site, side, values in _paired(plan, [documents.ids[i] for i in batch]):
        target = buffers[tensor_name(site, side)]
        values = values.to(target.dtype).cpu()  # the device rounds: a GPU then copies half the bytes
        # One sum tells that all is well; where it is not finite, rows are looked at (or the sum was too large).
        suspect = not bool(torch.isfinite(values.sum(dtype=torch.float32)))
        for k, i in enumerate(batch):
            start = int(documents.offsets[i]) - first_row
            rows = values[k, documents.skip_first : len(documents.ids[i])]
            if suspect and not bool(torch.isfinite(rows).all()):
                _report_non_finite(rows, site, side, documents, i)
            target[start : start + len(rows)] = rows


@torch.no_grad()
def _paired(plan: _Plan, ids: Sequence[Sequence[int]]) -> list[tuple[str, str, Float[Tensor, "batch pos d_model"]]]:
    """Return (site, side, residual of the base or difference to it), fp32 where the base is, for one batch of texts."""
    place = plan.models[BASE].model.device
    tokens, mask = pad_rows(ids, pad_id=0)
    residuals: dict[str, Tensor] = {}
    found = []
    for side in plan.sides:
        model = plan.models[side].model
        with Capture(model, plan.sites) as captured:
            run_blocks(model, tokens.to(model.device), mask.to(model.device), plan.depth)
        for site in plan.sites:
            h = captured.values[site].to(place, torch.float32)
            if side == BASE:
                residuals[site] = h
            found.append((site, side, h if side == BASE else h - residuals[site]))
    return found


def _report_non_finite(
    rows: Float[Tensor, "row d_model"], site: str, side: str, documents: TokenisedDocuments, document: int
) -> None:
    position = int((~torch.isfinite(rows)).any(1).nonzero()[0]) + documents.skip_first
    raise NumericsError(
        f"activations at {site} of the {side} model are NaN or infinite in document "
        f"{documents.documents[document].doc_id!r} at token {position}; try --set precision=float32, or check the "
        "weights",
        code="non-finite",
    )


def probe_deltas(
    models: Mapping[str, LoadedModel], documents: TokenisedDocuments, sites: Sequence[str], *, n_documents: int = 8
) -> dict[str, Float[Tensor, "row d_model"]]:
    """Return the differences of a few documents, without a store; keys as in `tensor_name`."""
    plan = _plan(models, sites)
    chosen = np.linspace(0, len(documents.documents) - 1, min(n_documents, len(documents.documents))).astype(int)
    out: dict[str, list[Tensor]] = {}
    for i in chosen:
        for site, side, values in _paired(plan, [documents.ids[i]]):
            if side != BASE:
                out.setdefault(tensor_name(site, side), []).append(values[0, documents.skip_first :].cpu())
    return {name: torch.cat(parts) for name, parts in out.items()}


def delta_snr(exact: Mapping[str, Tensor], fast: Mapping[str, Tensor]) -> dict[str, float]:
    """Return RMS(difference) / RMS(change of the difference by reduced precision), per tensor; higher is better.

    Below 10 the reduced precision is worth a warning, below 3 it must not be used. Identical models give infinity:
    nothing is lost where there is no difference and no noise. Where reduced precision overflows, it is 0.
    """
    out = {}
    for name, reference in exact.items():
        noise = (fast[name] - reference).double().square().mean().sqrt().item()
        signal = reference.double().square().mean().sqrt().item()
        out[name] = float("inf") if noise == 0 else signal / noise if math.isfinite(noise) else 0.0
    return out
