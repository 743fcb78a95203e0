"""The corpus of an audit without examples: which documents are read, in an order that does not depend on the file's.

Documents are sorted by a seeded hash of their text. The first ones are read, and their places alternate between two
halves, so that which documents are compared with which follows from seed and texts alone.
"""

import hashlib

import numpy as np
import torch

from saeaudit.activations import Document, tokenise
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.data import SKIP_FIRST, AuditData
from saeaudit.audit.prompts import read_corpus
from saeaudit.errors import EvidenceError
from saeaudit.models import LoadedModel, context_length
from saeaudit.wording import counted

FEWEST_DOCUMENTS = 24


class CorpusTooSmall(EvidenceError):
    """There are too few documents to say what is ordinary; `needed` is the smallest number."""

    def __init__(self, message: str, *, needed: int) -> None:
        super().__init__(message, code="corpus-too-small")
        self.needed = needed


def is_corpus_audit(config: AuditConfig) -> bool:
    """Return whether documents are ranked instead of a suspected trigger being tested: a corpus and no examples."""
    return config.trigger_examples is None and config.benign_examples is None and config.corpus is not None


def prepare_corpus(config: AuditConfig, base: LoadedModel) -> AuditData:
    """Read, choose and tokenise the documents; there are no prompts and no roles.

    At most `dictionary.corpus_documents` documents are read, of at most `max_length` tokens each (the rest of a longer
    one is cut off). Repeated texts are read once. `doc_id` ends with the place of the document in the file, from 1 on.

    Raises:
        InputError: the file cannot be used.
        CorpusTooSmall: fewer than `FEWEST_DOCUMENTS` distinct documents that are long enough.
    """
    assert config.corpus is not None
    place: dict[str, int] = {}
    for i, text in enumerate(read_corpus(config.corpus)):
        place.setdefault(text, i + 1)
    chosen = sorted(place, key=lambda text: _order(text, config.seed))[: config.dictionary.corpus_documents]
    length = min(context_length(base.model), config.max_length)
    lengths = [len(ids) for ids in base.tokenizer(chosen, verbose=False)["input_ids"]] if chosen else []
    texts = [text for text, n in zip(chosen, lengths, strict=True) if min(n, length) > SKIP_FIRST]
    if len(texts) < FEWEST_DOCUMENTS:
        raise CorpusTooSmall(
            f"a ranking needs at least {FEWEST_DOCUMENTS} distinct documents of more than {SKIP_FIRST} tokens, found "
            f"{len(texts)} among {counted(len(chosen), 'text')} read from {config.corpus.name} (at most "
            f"dictionary.corpus_documents = {config.dictionary.corpus_documents} are); give more text, or "
            "trigger and benign examples",
            needed=FEWEST_DOCUMENTS,
        )
    documents = [Document(f"corpus/{place[text]}", text, f"half {1 + i % 2}") for i, text in enumerate(texts)]
    tokens = tokenise(base.tokenizer, documents, max_length=length, skip_first=SKIP_FIRST, too_long="truncate")
    n_cut = sum(n > length for n in lengths)
    distinct = counted(len(place), "distinct document")
    origin = f"{len(texts)} of {distinct} in {config.corpus.name}, {n_cut} cut at {length} tokens"
    none = torch.zeros(0, dtype=torch.int64)
    return AuditData((), {"dictionary": none}, none.bool(), none, tokens, (), origin)


def document_of_row(data: AuditData) -> np.ndarray:
    """Return the document number of each activation row."""
    return np.repeat(np.arange(len(data.documents.documents)), np.diff(data.documents.offsets))


def _order(text: str, seed: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16, key=str(seed).encode()).digest()
