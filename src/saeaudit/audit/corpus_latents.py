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
from saeaudit.audit.latent_views import CHUNK_ROWS, N_LATENTS, Judged, latent_views
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.dictionaries import Dictionary
from saeaudit.findings import Interval, LatentView
from saeaudit.metrics import bootstrap_interval
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
        latents=latent_views(session, site, shown, Judged(torch.arange(n), top, torch.arange(n)), ablated=False),
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
