"""Rows of the paper's experiment from real models: residuals of every text, pooled."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.activations import (
    BASE,
    ActivationStore,
    Document,
    TokenisedDocuments,
    harvest,
    tensor_name,
    tokenise,
)
from saeaudit.detection import PairedRows, pool
from saeaudit.models import LoadedModel, context_length
from saeaudit.paper_results import Reading
from saeaudit.studies.isolation.paper.rows import PaperText

MAX_TOKENS = 512
_CHUNK_TEXTS = 100


def paper_harvest(
    models: Mapping[str, LoadedModel],
    texts: Sequence[PaperText],
    sites: Sequence[str],
    *,
    reads: Reading = "text",
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> dict[tuple[str, str], PairedRows]:
    """Return the pooled rows by (tuned model, site).

    Args:
        models: by name; "base" is required, every other one is a tuned model.
        texts: of the three cells.
        sites: such as `["layers.13", "layers.17"]`.
        reads: "text": mean over all tokens of prompt and completion, as in the paper; "prompt": the last token of the
            prompt alone, before anything is generated (W13).
        out: directory of the activations of every token, bf16; it may be deleted afterwards.
        progress: called with (texts done, texts) after each batch.

    Raises:
        ConfigError: no base, no sites, or a site twice.
        ModelError: unknown site.
        InputError: a prompt is longer than the models read (`prompt-too-long`); whole texts are cut at 512 tokens.
        NumericsError: NaN or infinite activations.
    """
    whole = reads == "text"
    documents = [Document(row.row_id, row.text if whole else row.prompt, row.klass) for row in texts]
    base = models[BASE]
    tokens = tokenise(
        base.tokenizer,
        documents,
        max_length=min(MAX_TOKENS, context_length(base.model)),
        skip_first=0,
        too_long="truncate" if whole else "error",
    )
    store = harvest(models, tokens, sites, out=out, progress=progress)
    found: dict[tuple[str, str], PairedRows] = {}
    for site in sites:
        h0 = _pooled(store, tensor_name(site, BASE), tokens, reads)
        for side in (name for name in models if name != BASE):
            delta = _pooled(store, tensor_name(site, side), tokens, reads)
            found[side, site] = rows_of(texts, h0, delta, reads)
    return found


def rows_of(
    texts: Sequence[PaperText],
    h0: Float[Tensor, "text d_model"],
    delta: Float[Tensor, "text d_model"],
    reads: Reading,
) -> PairedRows:
    """Return pooled residuals with what is known of their texts."""
    groups = sorted({text.group for text in texts})
    return PairedRows(
        h0,
        delta,
        [text.text if reads == "text" else text.prompt for text in texts],
        torch.tensor([text.klass == "trigger" for text in texts]),
        [text.klass for text in texts],
        torch.tensor([groups.index(text.group) for text in texts]),
    )


def _pooled(
    store: ActivationStore, name: str, documents: TokenisedDocuments, reads: Reading
) -> Float[Tensor, "text d_model"]:
    pooled = []
    for first in range(0, len(documents.documents), _CHUNK_TEXTS):
        bounds = documents.offsets[first : first + _CHUNK_TEXTS + 1]
        values = store.read(name, np.arange(bounds[0], bounds[-1]))
        pooled.append(pool(values, torch.from_numpy(bounds - bounds[0]), "mean" if reads == "text" else "last"))
    return torch.cat(pooled)
