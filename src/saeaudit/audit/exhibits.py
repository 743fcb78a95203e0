"""Stage: the held latents that matter most, with the contexts in which they are most active."""

import numpy as np
import torch
from torch import Tensor

from saeaudit.activations import tensor_name
from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.findings import Context, LatentView
from saeaudit.metrics import auroc, auroc_interval

N_LATENTS = 6
N_CONTEXTS = 3
N_TOP_TOKENS = 8
CHUNK_ROWS = 8192


class ExhibitRecord(Record):
    """Latents as the report shows them."""

    latents: list[LatentView]


def exhibit_stage(session: Session, choice: ChoiceRecord) -> ExhibitRecord:
    """Collect once; the record is reused."""
    inputs = session.identity("exhibits", choice.site, choice.latents, session.config.dictionary.model_dump())
    return session.stages.run("exhibits", inputs, ExhibitRecord, lambda: _exhibit(session, choice))


def _exhibit(session: Session, choice: ChoiceRecord) -> ExhibitRecord:
    shown = choice.latents[:N_LATENTS]
    dictionary = session.dictionary(choice.site)
    tokens = session.data.documents
    values = torch.cat(
        [
            dictionary.activations(
                session.store().read(
                    tensor_name(choice.site, session.side), np.arange(start, min(start + CHUNK_ROWS, tokens.n_rows))
                ),
                torch.tensor(shown),
            )
            for start in range(0, tokens.n_rows, CHUNK_ROWS)
        ]
    )
    ids = torch.tensor([i for row in tokens.ids for i in row[tokens.skip_first :]])
    test = session.data.roles["test"]
    label, group = session.data.label[test], session.data.group[test]
    # The largest activation in the prompt, not the last token's: what carries a trigger often fires on the trigger.
    on_test = torch.stack([values[tokens.offsets[i] : tokens.offsets[i + 1]].amax(0) for i in test.tolist()])
    views = []
    for column, latent in enumerate(shown):
        interval = auroc_interval(on_test[:, column], label, group, seed=session.config.seed)
        views.append(
            LatentView(
                site=choice.site,
                kind="diff",
                latent=latent,
                auroc=auroc(on_test[:, column], label),
                auroc_interval=(interval.low, interval.high),
                firing_rate=float((values[:, column] > 0).float().mean()),
                ablated=latent in choice.latents,
                top_tokens=_top_tokens(session, ids, values[:, column]),
                contexts=_contexts(session, values[:, column]),
            )
        )
        session.watcher.progress(column + 1, len(shown))
    return ExhibitRecord(latents=views)


def _top_tokens(session: Session, ids: Tensor, values: Tensor) -> list[str]:
    """Return the tokens on which the latent's activity is largest in sum."""
    total = torch.zeros(int(ids.max()) + 1).index_add_(0, ids, values)
    best = total.topk(min(N_TOP_TOKENS, len(total)))
    kept = best.indices[best.values > 0].tolist()
    return [str(session.pair.base.tokenizer.decode([i])) for i in kept]


def _contexts(session: Session, values: Tensor) -> list[Context]:
    tokens = session.data.documents
    starts = tokens.offsets
    peaks = [
        (float(values[starts[i] : starts[i + 1]].max()), i)
        for i in range(len(tokens.documents))
        if starts[i + 1] > starts[i]
    ]
    contexts = []
    for peak, i in sorted(peaks, key=lambda p: (-p[0], p[1]))[:N_CONTEXTS]:
        if peak <= 0:
            break
        contexts.append(context(session, i, values[starts[i] : starts[i + 1]]))
    return contexts


def context(session: Session, document: int, values: Tensor) -> Context:
    """Return one document's tokens with a value each; skipped first tokens get 0."""
    tokens = session.data.documents
    decode = session.pair.base.tokenizer.decode
    return Context(
        doc_id=tokens.documents[document].doc_id,
        role=tokens.documents[document].role,
        tokens=[str(decode([t])) for t in tokens.ids[document]],
        activations=[0.0] * min(tokens.skip_first, len(tokens.ids[document])) + values.tolist(),
    )
