"""Judge a trained dictionary on rows of a store that it was not trained on, and in the models if they are given.

Rows are read in random order and the metrics are sums by group, so nothing is kept but sums. A group holds whole
documents. The held-out rows begin with a document, so no document is in the training and in the evaluation.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from saeaudit.activations import BASE, ActivationStore, Document, tensor_name, tokenise
from saeaudit.audit.device import own_device
from saeaudit.audit.prompts import read_corpus
from saeaudit.audit.stages import Silent, Watcher
from saeaudit.audit.store_inputs import held_out_from
from saeaudit.dictionaries import Dictionary, load_dictionary
from saeaudit.errors import ArtifactError
from saeaudit.metrics import (
    DictionaryMetrics,
    DictionaryReport,
    Estimate,
    LatentEstimate,
    RelativeNorms,
    SpliceReport,
    splice_damage,
    spliced_sides,
)
from saeaudit.metrics.group_sums import N_GROUPS
from saeaudit.models import LoadedModel, context_length, load_model, load_pair, resolve_site
from saeaudit.seeds import torch_generator


class StoreEvaluation(BaseModel):
    """Which rows are judged, how closely, and in which models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    site: str | None = Field(default=None, description="for a dictionary that does not name its site")
    side: str = Field(default="tuned", description="which tuned model, for a store of several")
    rows: Literal["held-out", "all"] = Field(
        default="held-out", description="the last eighth, which `train` leaves out, or all of a store it never saw"
    )
    batch_size: int = Field(default=2048, ge=1)
    device: str = Field(default="cpu", description="cpu, cuda or cuda:N")
    n_resamples: int = Field(default=500, ge=100, description="bootstrap samples behind each interval")
    template_ids: tuple[int, ...] = Field(
        default=(), description="token ids of a chat template, to count firings there"
    )
    density_floor: float = Field(default=1e-3, gt=0, le=1, description="density a dead latent must be told from")
    base: str | None = Field(default=None, description="base model, to splice the reconstruction into")
    tuned: str | None = Field(default=None, description="tuned model, if the dictionary reads it")
    corpus: Path | None = Field(default=None, description="text of the splice; for `held-out`, its last eighth")
    n_documents: int = Field(default=64, ge=1, description="documents of the splice")
    max_length: int = Field(default=512, ge=8, description="longest document in tokens, as it was harvested")
    allow_mismatch: bool = Field(default=False, description="accept other models than the dictionary was trained on")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _models_with_text(self) -> Self:
        if (self.base is None) != (self.corpus is None) or (self.tuned is not None and self.base is None):
            raise ValueError(
                "a splice needs base and corpus together, and tuned where the dictionary reads the tuned model; found "
                f"base {self.base}, tuned {self.tuned}, corpus {self.corpus}"
            )
        return self


@dataclass(frozen=True)
class Evaluation:
    """What is known about a dictionary.

    Attributes:
        kind, site: of the dictionary.
        n_rows, n_groups: rows judged, and groups of documents behind the intervals.
        dictionary: fit, sparsity, exclusivity.
        splice: by side; empty where no models were given.
    """

    kind: str
    site: str
    n_rows: int
    n_groups: int
    dictionary: DictionaryReport
    splice: Mapping[str, SpliceReport]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values; None stands for what is not defined."""
        return _plain(self)


def evaluate_on_store(
    path: Path, store: Path, config: StoreEvaluation, *, watcher: Watcher | None = None
) -> Evaluation:
    """Return the evaluation of the dictionary at `path` on rows of `store`.

    Raises:
        ArtifactError: dictionary or store is missing or broken, the store has no such site or side, or activations or
            models are not those that the dictionary was trained on (code `provenance-mismatch`).
        EvidenceError: there are no rows, or no document is long enough.
        ModelError: a model cannot be loaded, or the device is not there.
    """
    watcher, place = watcher or Silent(), own_device(config.device)
    watcher.stage("read")
    dictionary, opened = load_dictionary(path).to(place), ActivationStore(store)
    site = config.site or dictionary.provenance.site
    if site is None:
        raise ArtifactError(f"{path} does not name its site; add --set site=layers.N", code="site-missing")
    if not config.allow_mismatch:
        _same_models(dictionary, opened.made_from.get("models", {}), f"the store {store}")
    inputs = _splice_inputs(dictionary, site, config, watcher)
    watcher.stage("evaluate")
    rows = _judged_rows(opened.document_bounds, config)
    groups = torch.from_numpy(groups_of_rows(opened.document_bounds, rows))
    n_groups = int(groups.max()) + 1
    metrics = DictionaryMetrics(dictionary, density_floor=config.density_floor, n_groups=n_groups, seed=config.seed)
    sides = [BASE] if dictionary.kind == "sae" else [BASE, config.side]
    done, template = 0, config.template_ids
    for at in _shuffled(len(rows), config):
        base, *difference = (opened.read(tensor_name(site, side), rows[at]).to(place) for side in sides)
        marked = torch.from_numpy(np.isin(opened.token_ids[rows[at]], template)).to(place) if template else None
        metrics.update(base, difference[0] if difference else None, groups[at].to(place), on_template=marked)
        done += len(at)
        watcher.progress(done, len(rows))
    drawing = {"n_resamples": config.n_resamples, "seed": config.seed}
    splice = {}
    if inputs is not None:
        watcher.stage("splice")
        damage = splice_damage(dictionary, site, **inputs._asdict(), mean=metrics.mean, progress=watcher.progress)
        splice = {side: d.result(**drawing) for side, d in damage.items()}
    return Evaluation(dictionary.kind, site, len(rows), n_groups, metrics.result(**drawing), splice)


def groups_of_rows(document_bounds: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the group of each of some ascending rows: runs of whole documents of about equal size, numbered from 0.

    Args:
        document_bounds: "doc+1", first row of each document and the number of rows.
        rows: row numbers.
    """
    document = np.searchsorted(document_bounds, rows, side="right")
    _, first, document = np.unique(document, return_index=True, return_inverse=True)
    # A document belongs where it begins; a long one can leave groups after it without any.
    _, group = np.unique(first * N_GROUPS // len(rows), return_inverse=True)
    return group[document]


def _judged_rows(document_bounds: np.ndarray, config: StoreEvaluation) -> np.ndarray:
    """Return the rows that count: those that `train` leaves out, or all."""
    first = held_out_from(document_bounds) if config.rows == "held-out" else 0
    return np.arange(first, document_bounds[-1])


def _shuffled(n: int, config: StoreEvaluation) -> Iterator[np.ndarray]:
    order = torch.randperm(n, generator=torch_generator(config.seed, "evaluate"))
    return (part.numpy() for part in order.split(config.batch_size))


class _SpliceInputs(NamedTuple):
    """Arguments of `splice_damage`."""

    models: dict[str, Any]
    documents: list[tuple[int, ...]]
    skip_first: int


def _splice_inputs(
    dictionary: Dictionary, site: str, config: StoreEvaluation, watcher: Watcher
) -> _SpliceInputs | None:
    """Read, load and check everything that a splice needs, before the long work begins; None if none was asked for."""
    if config.base is None or config.corpus is None:
        return None
    watcher.stage("load")
    texts = read_corpus(config.corpus)
    spliced_sides(dictionary, [BASE] if config.tuned is None else [BASE, "tuned"])
    models = _models(config.base, config.tuned, config.device)
    for warning in (w for loaded in models.values() for w in loaded.warnings):
        watcher.note(f"warning: {warning}")
    resolve_site(models[BASE].model, site)
    if not config.allow_mismatch:
        _same_models(dictionary, {side: m.card.as_dict() for side, m in models.items()}, "the model to splice into")
    documents = tokenise(
        models[BASE].tokenizer,
        [Document(f"corpus/{i}", text) for i, text in enumerate(texts)],
        max_length=min(config.max_length, context_length(models[BASE].model)),
        too_long="truncate",
    )
    first = _judged_rows(documents.offsets, config)[0]
    chosen = np.flatnonzero(documents.offsets[:-1] >= first)[-config.n_documents :]
    return _SpliceInputs(
        {side: m.model for side, m in models.items()}, [documents.ids[i] for i in chosen], documents.skip_first
    )


def _models(base: str, tuned: str | None, device: str) -> dict[str, LoadedModel]:
    if tuned is None:
        return {BASE: load_model(base, dtype="float32", device=device)}
    pair = load_pair(base, tuned, dtype="float32", device=device)
    return {BASE: pair.base, "tuned": pair.tuned}


def _same_models(dictionary: Dictionary, found: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Raise if a side that both know has other weights (code `provenance-mismatch`)."""
    for side, card in dictionary.provenance.cards.items():
        trained, other = card.get("weights_sha256"), found.get(side, {}).get("weights_sha256")
        if trained and other and trained != other:
            raise ArtifactError(
                f"the dictionary was trained on a {side} model with weights {trained[:12]}..., {what} has "
                f"{other[:12]}...; give the same model, or add --set allow_mismatch=true",
                code="provenance-mismatch",
            )


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Estimate | LatentEstimate | RelativeNorms):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
