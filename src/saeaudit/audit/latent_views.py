"""Latents of a Diff-SAE as the report shows them: how well they tell documents apart, where they are most active."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from saeaudit.activations import tensor_name
from saeaudit.audit.session import Session
from saeaudit.findings import Context, LatentView
from saeaudit.metrics import auroc, auroc_interval

N_LATENTS = 6
N_CONTEXTS = 3
N_TOP_TOKENS = 8
CHUNK_ROWS = 8192


class Judged(NamedTuple):
    """Documents by which latents are judged.

    Attributes:
        documents: numbers of the documents.
        label: which of them a latent should be active in.
        group: of each document, for the interval.
    """

    documents: Shaped[Tensor, " n"]
    label: Shaped[Tensor, " n"]
    group: Shaped[Tensor, " n"]


def latent_views(session: Session, site: str, latents: list[int], judged: Judged, *, ablated: bool) -> list[LatentView]:
    """Return the latents with the AUROC of their largest activation in a document, top tokens and contexts.

    The largest, not the last token's: what carries a trigger often fires on the trigger.
    """
    values = _values(session, site, latents)
    offsets = session.data.documents.offsets
    peaks = torch.stack(
        [torch.cat([part, part.new_zeros(1, len(latents))]).amax(0) for part in values.split(np.diff(offsets).tolist())]
    )
    views = []
    for column, latent in enumerate(latents):
        seen = peaks[judged.documents, column]
        interval = auroc_interval(seen, judged.label, judged.group, seed=session.config.seed)
        views.append(
            LatentView(
                site=site,
                kind="diff",
                latent=latent,
                auroc=auroc(seen, judged.label),
                auroc_interval=(interval.low, interval.high),
                firing_rate=float((values[:, column] > 0).float().mean()),
                ablated=ablated,
                top_tokens=_top_tokens(session, values[:, column]),
                contexts=_contexts(session, values[:, column], peaks[:, column]),
            )
        )
        session.watcher.progress(column + 1, len(latents))
    return views


def _values(session: Session, site: str, latents: list[int]) -> Float[Tensor, "row n"]:
    dictionary, store, n = session.dictionary(site), session.store(), session.data.documents.n_rows
    starts = [np.arange(start, min(start + CHUNK_ROWS, n)) for start in range(0, n, CHUNK_ROWS)]
    parts = (store.read(tensor_name(site, session.side), rows) for rows in starts)
    return torch.cat([dictionary.activations(part, torch.tensor(latents)) for part in parts])


def _top_tokens(session: Session, values: Float[Tensor, " row"]) -> list[str]:
    """Return the tokens on which the latent's activity is largest in sum."""
    tokens = session.data.documents
    ids = torch.tensor([i for row in tokens.ids for i in row[tokens.skip_first :]])
    total = torch.zeros(int(ids.max()) + 1).index_add_(0, ids, values)
    best = total.topk(min(N_TOP_TOKENS, len(total)))
    return [str(session.pair.base.tokenizer.decode([i])) for i in best.indices[best.values > 0].tolist()]


def _contexts(session: Session, values: Float[Tensor, " row"], peaks: Float[Tensor, " document"]) -> list[Context]:
    """Return the documents of the largest peaks, with a value a token; skipped first tokens get 0."""
    tokens, decode = session.data.documents, session.pair.base.tokenizer.decode
    best = peaks.argsort(descending=True, stable=True)[:N_CONTEXTS].tolist()
    return [
        Context(
            doc_id=tokens.documents[i].doc_id,
            role=tokens.documents[i].role,
            tokens=[str(decode([t])) for t in tokens.ids[i]],
            activations=[0.0] * min(tokens.skip_first, len(tokens.ids[i]))
            + values[tokens.offsets[i] : tokens.offsets[i + 1]].tolist(),
        )
        for i in best
        if peaks[i] > 0
    ]
