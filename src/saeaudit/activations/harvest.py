"""Harvest base and tuned models at several sites in one pass over identical tokens.

1. Documents are cut into units of consecutive documents; inside a unit they are sorted by length and packed into
   batches by a token budget, so little is spent on padding.
2. A batch runs through the base once and through each tuned model; every run stops after the last needed block and
   never computes the final norm or the output head. One base pass serves any number of tuned models.
3. Rows are scattered to their place in document order, so packing is invisible in the store.

Precision: GEMMs in bf16 where the CPU or GPU has fast bf16, the residual stream, norms and the difference in fp32 (the
`mixed` setting of `saeaudit.models.precision`). A probe compares the differences with a full fp32 run and reports their
ratio to the noise, `delta_snr`: differences are small, and pure bf16 would drown the smallest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from saeaudit.activations.documents import TokenisedDocuments
from saeaudit.activations.store import ActivationStore, StoreWriter
from saeaudit.errors import NumericsError
from saeaudit.models import Capture, LoadedModel, run_blocks
from saeaudit.models.sites import resolve_site

BASE = "base"


class HarvestConfig(BaseModel):
    """Sizes of a harvest; none of them changes the numbers beyond rounding."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_tokens: int = Field(default=2048, ge=1, description="padded tokens in a batch")
    unit_rows: int = Field(default=16384, ge=1, description="rows in a unit, the atom of resuming")


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
) -> ActivationStore:
    """Write the residuals of `models["base"]` and the differences of every other model to the store `out`.

    Args:
        models: side name to model; "base" is required.
        documents: tokenised once, with the base's tokenizer.
        sites: such as `["layers.13", "layers.17"]`.
        config: sizes.
        out: directory of the store; an unfinished harvest of the same inputs is continued.
        progress: called with (documents done, documents) after each batch.

    Raises:
        ModelError: unknown site.
        NumericsError: NaN or infinite activations; the text names site, document and position.
        ArtifactError: `out` holds a store made from something else.
        ResourceError: the disk is full; finished units are kept.
    """
    config = config or HarvestConfig()
    sides = [BASE, *[s for s in models if s != BASE]]
    units = _units(documents, config.unit_rows)
    depth = 1 + max(resolve_site(models[BASE].model, site).index for site in sites)
    names = [tensor_name(site, side) for site in sites for side in sides]
    made_from = {
        "documents": documents.fingerprint(),
        "sites": list(sites),
        "models": {side: models[side].card.as_dict() for side in sides},
        "unit_rows": config.unit_rows,
    }
    unit_rows = [int(documents.offsets[u.stop] - documents.offsets[u.start]) for u in units]
    writer = StoreWriter(out, made_from=made_from, unit_rows=unit_rows, tensors=names)
    done = sum(len(u) for u in units[: writer.n_finished])
    for unit, n_rows in list(zip(units, unit_rows, strict=True))[writer.n_finished :]:
        buffers = {name: torch.empty(n_rows, models[BASE].card.d_model) for name in names}
        first_row = int(documents.offsets[unit.start])
        for batch in _batches(documents, unit, config.batch_tokens):
            _fill(models, sides, documents, batch, sites, depth, buffers, first_row)
            done += len(batch)
            if progress is not None:
                progress(done, len(documents.documents))
        writer.write(buffers)
    return ActivationStore(out)


def _units(documents: TokenisedDocuments, unit_rows: int) -> list[range]:
    units, start = [], 0
    n = len(documents.documents)
    while start < n:
        limit = documents.offsets[start] + unit_rows
        stop = max(start + 1, int(np.searchsorted(documents.offsets, limit, side="right")) - 1)
        units.append(range(start, min(stop, n)))
        start = units[-1].stop
    return units


def _batches(documents: TokenisedDocuments, unit: range, batch_tokens: int) -> Iterator[list[int]]:
    order = sorted(unit, key=lambda i: (len(documents.ids[i]), i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(documents.ids[i]) > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _fill(
    models: Mapping[str, LoadedModel],
    sides: Sequence[str],
    documents: TokenisedDocuments,
    batch: Sequence[int],
    sites: Sequence[str],
    depth: int,
    buffers: dict[str, Tensor],
    first_row: int,
) -> None:
    ids, mask = pad_right([documents.ids[i] for i in batch])
    residuals: dict[str, Tensor] = {}
    for side in sides:
        model = models[side].model
        with Capture(model, sites) as captured:
            run_blocks(model, ids, mask, depth)
        for site in sites:
            h = captured.values[site].float()
            if side == BASE:
                residuals[site] = h
            values = h if side == BASE else h - residuals[site]
            target = buffers[tensor_name(site, side)]
            for k, i in enumerate(batch):
                start = int(documents.offsets[i]) - first_row
                rows = values[k, documents.skip_first : len(documents.ids[i])]
                if not bool(torch.isfinite(rows).all()):
                    _report_non_finite(rows, site, side, documents, i)
                target[start : start + len(rows)] = rows


def pad_right(ids: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return (token ids, attention mask), both "batch pos"; the padding id is 0 and always masked."""
    width = max(len(i) for i in ids)
    tokens = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for k, row in enumerate(ids):
        tokens[k, : len(row)] = torch.tensor(row)
        mask[k, : len(row)] = 1
    return tokens, mask


def _report_non_finite(
    rows: Float[Tensor, "row d_model"], site: str, side: str, documents: TokenisedDocuments, document: int
) -> None:
    position = int((~torch.isfinite(rows)).any(1).nonzero()[0]) + documents.skip_first
    raise NumericsError(
        f"activations at {site} of the {side} model are NaN or infinite in document "
        f"{documents.documents[document].doc_id!r} at token {position}; try --set dtype=float32, or check the weights",
        code="non-finite",
    )


def probe_deltas(
    models: Mapping[str, LoadedModel], documents: TokenisedDocuments, sites: Sequence[str], *, n_documents: int = 8
) -> dict[str, Float[Tensor, "row d_model"]]:
    """Return the differences of a few documents, without a store; keys as in `tensor_name`."""
    depth = 1 + max(resolve_site(models[BASE].model, site).index for site in sites)
    chosen = np.linspace(0, len(documents.documents) - 1, min(n_documents, len(documents.documents))).astype(int)
    out: dict[str, list[Tensor]] = {}
    for i in chosen:
        ids, mask = pad_right([documents.ids[i]])
        residuals: dict[str, Tensor] = {}
        for side in [BASE, *[s for s in models if s != BASE]]:
            with Capture(models[side].model, sites) as captured:
                run_blocks(models[side].model, ids, mask, depth)
            for site in sites:
                h = captured.values[site][0, documents.skip_first :].float()
                if side == BASE:
                    residuals[site] = h
                else:
                    out.setdefault(tensor_name(site, side), []).append(h - residuals[site])
    return {name: torch.cat(parts) for name, parts in out.items()}


def delta_snr(exact: Mapping[str, Tensor], fast: Mapping[str, Tensor]) -> dict[str, float]:
    """Return RMS(difference) / RMS(change of the difference by reduced precision), per tensor; higher is better.

    Below 10 the reduced precision is worth a warning, below 3 it must not be used. Identical models give infinity.
    """
    out = {}
    for name, reference in exact.items():
        noise = (fast[name] - reference).square().mean().sqrt().item()
        signal = reference.square().mean().sqrt().item()
        out[name] = signal / noise if noise > 0 else float("inf")
    return out
