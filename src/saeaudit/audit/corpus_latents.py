"""Stage: which latents of a Diff-SAE are active in the top documents, beside what random documents would show.

A latent's share of activity in the top documents is compared with its spread over random sets of as many documents: a
latent that fires in one document only can have the whole of it there by luck, one that fires in three cannot as easily.
The documents were ranked by the same differences, so this describes them and is no second piece of evidence.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.activations import tensor_name
from saeaudit.audit.corpus_data import document_of_row
from saeaudit.audit.corpus_scores import CorpusScores
from saeaudit.audit.exhibits import CHUNK_ROWS, N_CONTEXTS, N_LATENTS, N_TOP_TOKENS, context
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.dictionaries import Dictionary
from saeaudit.findings import Context, Interval, LatentView
from saeaudit.metrics import auroc, auroc_interval, bootstrap_interval
from saeaudit.seeds import torch_generator

TOP_SHARE = 0.05
FEWEST_TOP = 3
DENSE = 0.05
FEWEST_DOCUMENTS = 2
N_RANDOM_SETS = 200


class LatentRecord(Record):
    """The latents shown, and how concentrated the first one is.

    Attributes:
        latents: ranked; empty if every latent is dense, silent or seen in one document only.
        share: the first latent's share of activity that lies in the top documents, 0..1.
        share_interval: resampling documents.
        random_share: the same for the latent ranked first by a random set of documents, mean over sets.
        random_interval: 95 % range over sets.
        n_documents: documents in which the first latent is active.
    """

    latents: list[LatentView]
    share: float = 0.0
    share_interval: Interval = (0.0, 0.0)
    random_share: float = 0.0
    random_interval: Interval = (0.0, 0.0)
    n_documents: int = 0


def top_count(n_documents: int) -> int:
    """Return how many documents count as the top ones: 5 %, at least 3."""
    return max(FEWEST_TOP, -(-n_documents // round(1 / TOP_SHARE)))


def latent_stage(session: Session, site: str, scores: CorpusScores) -> LatentRecord:
    """Rank once; the record is reused."""
    inputs = session.identity("corpus-latents", site, scores.score, session.config.dictionary.model_dump())
    return session.stages.run("corpus-latents", inputs, LatentRecord, lambda: _rank(session, site, scores))


def concentration(
    activity: Float[Tensor, "document latent"], top: Bool[Tensor, "set document"]
) -> Float[Tensor, "set latent"]:
    """Return how far each latent's share of activity in a set lies above chance, in deviations over random sets.

    0 is as expected of a random set of that size. The deviation is that of drawing each document independently.
    """
    density = top.double().mean(1, keepdim=True)
    share = activity.double() / activity.double().sum(0).clamp(min=1e-300)
    deviation = (density * (1 - density) * share.square().sum(0)).sqrt().clamp(min=1e-300)
    return (top.double() @ share - density) / deviation


def _rank(session: Session, site: str, scores: CorpusScores) -> LatentRecord:
    dictionary = session.dictionary(site)
    document = torch.from_numpy(document_of_row(session.data))
    n = len(scores.score)
    total, firing = _activity(session, dictionary, site, document, n)
    usable = ((firing > 0) & (firing <= DENSE) & ((total > 0).sum(0) >= FEWEST_DOCUMENTS)).nonzero()[:, 0]
    if len(usable) == 0:
        return LatentRecord(latents=[])
    activity = total[:, usable]
    k = top_count(n)
    top = torch.tensor(scores.rank()) <= k
    order = concentration(activity, top[None])[0].argsort(descending=True, stable=True)
    shown = usable[order[:N_LATENTS]].tolist()
    best = activity[:, order[0]]
    interval = bootstrap_interval(
        lambda weights: (weights @ (best * top).double()) / (weights @ best.double()),
        torch.arange(n),
        seed=session.config.seed,
    )
    generator = torch_generator(session.config.seed, "corpus", "random-documents")
    sets = torch.stack([torch.randperm(n, generator=generator) < k for _ in range(N_RANDOM_SETS)])
    first = concentration(activity, sets).argmax(1)
    inside = (sets.to(activity.dtype) @ activity).gather(1, first[:, None])[:, 0]
    shares = (inside / activity.sum(0)[first]).double()
    low, high = shares.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    share = float(best[top].sum() / best.sum())
    return LatentRecord(
        latents=_views(session, site, dictionary, shown, top),
        share=share,
        share_interval=(min(interval.low, share), max(interval.high, share)),
        random_share=float(shares.mean()),
        random_interval=(low, high),
        n_documents=int((best > 0).sum()),
    )


def _activity(
    session: Session, dictionary: Dictionary, site: str, document: Tensor, n: int
) -> tuple[Float[Tensor, "document latent"], Float[Tensor, "latent"]]:
    """Return every latent's summed activity in each document, and the share of rows on which it fires."""
    total = torch.zeros(n, dictionary.n_latents)
    fired = torch.zeros(dictionary.n_latents)
    for start in range(0, len(document), CHUNK_ROWS):
        rows = np.arange(start, min(start + CHUNK_ROWS, len(document)))
        delta = session.store().read(tensor_name(site, session.side), rows)
        code = dictionary.encode(delta)
        where = document[torch.from_numpy(rows)][:, None].expand_as(code.indices)
        flat = where * dictionary.n_latents + code.indices
        total.view(-1).index_add_(0, flat.reshape(-1), code.values.reshape(-1))
        fired.index_add_(0, code.indices.reshape(-1), (code.values > 0).float().reshape(-1))
    return total, fired / len(document)


def _views(session: Session, site: str, dictionary: Dictionary, shown: list[int], top: Tensor) -> list[LatentView]:
    delta = session.store().read(tensor_name(site, session.side))
    values = torch.cat([dictionary.activations(part, torch.tensor(shown)) for part in delta.split(CHUNK_ROWS)])
    offsets = session.data.documents.offsets
    peaks = torch.stack([values[offsets[i] : offsets[i + 1]].amax(0) for i in range(len(top))])
    views = []
    for column, latent in enumerate(shown):
        interval = auroc_interval(peaks[:, column], top, torch.arange(len(top)), seed=session.config.seed)
        views.append(
            LatentView(
                site=site,
                kind="diff",
                latent=latent,
                auroc=auroc(peaks[:, column], top),
                auroc_interval=(interval.low, interval.high),
                firing_rate=float((values[:, column] > 0).float().mean()),
                ablated=False,
                top_tokens=_tokens(session, values[:, column]),
                contexts=_contexts(session, values[:, column], peaks[:, column]),
            )
        )
        session.watcher.progress(column + 1, len(shown))
    return views


def _tokens(session: Session, values: Tensor) -> list[str]:
    """Return the tokens on which the latent's activity is largest in sum."""
    tokens = session.data.documents
    ids = torch.tensor([i for row in tokens.ids for i in row[tokens.skip_first :]])
    total = torch.zeros(int(ids.max()) + 1).index_add_(0, ids, values)
    best = total.topk(min(N_TOP_TOKENS, len(total)))
    return [str(session.pair.base.tokenizer.decode([i])) for i in best.indices[best.values > 0].tolist()]


def _contexts(session: Session, values: Tensor, peaks: Float[Tensor, "document"]) -> list[Context]:
    offsets = session.data.documents.offsets
    best = peaks.argsort(descending=True, stable=True)[:N_CONTEXTS].tolist()
    return [context(session, i, values[offsets[i] : offsets[i + 1]]) for i in best if peaks[i] > 0]
