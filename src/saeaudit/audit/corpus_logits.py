"""Stage: next-token distributions of both models on every row of the corpus, kept as three numbers a row."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.activations import TokenisedDocuments
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.errors import NumericsError
from saeaudit.metrics import token_kl
from saeaudit.models import pad_rows

BATCH_TOKENS = 1024
# Rows whose logits are in fp32 at once: 256 x 49,152 tokens are 50 MB a copy.
CHUNK_ROWS = 256


class LogitRecord(Record):
    """One number a row, rows as in the store.

    Attributes:
        kl: KL(tuned ‖ base) of the next-token distributions after the row's token, nats.
        entropy: of the base's distribution after the row's token, nats.
        surprisal: of the row's own token under the base, nats.
    """

    kl: list[float]
    entropy: list[float]
    surprisal: list[float]


def logit_stage(session: Session) -> LogitRecord:
    """Run both models once; the record is reused."""
    inputs = session.identity("corpus-logits")
    return session.stages.run("corpus-logits", inputs, LogitRecord, lambda: _measure(session))


@torch.no_grad()
def _measure(session: Session) -> LogitRecord:
    tokens = session.data.documents
    base, tuned = session.pair.base.model, session.pair.tuned.model
    out = torch.zeros(3, tokens.n_rows)
    done = 0
    for batch in _batches(tokens):
        ids, mask = pad_rows([tokens.ids[i] for i in batch], pad_id=0)
        logits = [
            m(input_ids=ids.to(m.device), attention_mask=mask.to(m.device), use_cache=False).logits
            for m in (base, tuned)
        ]
        for k, i in enumerate(batch):
            start, n = int(tokens.offsets[i]), len(tokens.ids[i])
            for first in range(tokens.skip_first, n, CHUNK_ROWS):
                last = min(first + CHUNK_ROWS, n)
                # One row more in front: it predicts the first token of the chunk.
                p0, p1 = (side[k, first - 1 : last].cpu() for side in logits)
                rows = slice(start + first - tokens.skip_first, start + last - tokens.skip_first)
                out[:, rows] = _numbers(p0, p1, ids[k, first:last])
        done += len(batch)
        session.watcher.progress(done, len(tokens.documents))
    if not bool(out.isfinite().all()):
        raise NumericsError(
            "the next-token distributions of a document are NaN or infinite; try --set precision=float32, or check the "
            "weights",
            code="non-finite",
        )
    kl, entropy, surprisal = (row.tolist() for row in out)
    return LogitRecord(kl=kl, entropy=entropy, surprisal=surprisal)


def _numbers(
    base: Float[Tensor, "next vocab"], tuned: Float[Tensor, "next vocab"], ids: Int[Tensor, "row"]
) -> Float[Tensor, "3 row"]:
    log_p = base.float().log_softmax(-1)
    surprisal = -log_p[:-1].gather(1, ids[:, None].to(log_p.device))[:, 0]
    entropy = -(log_p[1:].exp() * log_p[1:]).sum(-1)
    # A tuned model may have more rows in its head than the tokenizer has tokens; both read the base's vocabulary.
    n = min(base.shape[-1], tuned.shape[-1])
    return torch.stack([token_kl(tuned[1:, :n], base[1:, :n]), entropy, surprisal])


def _batches(tokens: TokenisedDocuments) -> Iterator[list[int]]:
    """Yield documents of similar length, longest first, so that running out of memory shows at once."""
    batch: list[int] = []
    for i in sorted(range(len(tokens.ids)), key=lambda i: (-len(tokens.ids[i]), i)):
        if batch and (len(batch) + 1) * len(tokens.ids[batch[0]]) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch
