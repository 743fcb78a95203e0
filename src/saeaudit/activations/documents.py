"""Texts as the pipeline sees them: documents with identity, role and trigger span, tokenised once.

Both models of a pair read exactly these token ids; nothing is decoded and tokenised again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from saeaudit.artifacts import content_hash
from saeaudit.errors import ConfigError, InputError, ModelError
from saeaudit.wording import counted


@dataclass(frozen=True)
class Document:
    """A text with its identity.

    Attributes:
        doc_id: unique name.
        text: what the models read; not empty.
        role: split or origin ("dictionary", "selection", ...).
        span: characters [start, end) of the trigger slot, if known.
    """

    doc_id: str
    text: str
    role: str = "corpus"
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class TokenisedDocuments:
    """Token ids of documents and where the rows of each document stand in a store.

    Attributes:
        documents: in order.
        ids: token ids of each document.
        offsets: "doc+1", first row of each document; positions below `skip_first` have no row.
        skip_first: number of leading positions without a row.
        spans: token positions [start, end) of the trigger slot, or None.
    """

    documents: tuple[Document, ...]
    ids: tuple[tuple[int, ...], ...]
    offsets: np.ndarray
    skip_first: int
    spans: tuple[tuple[int, int] | None, ...]

    @property
    def n_tokens(self) -> int:
        """Number of tokens that the models read, skipped positions included."""
        return sum(len(ids) for ids in self.ids)

    @property
    def n_rows(self) -> int:
        """Number of activation rows."""
        return int(self.offsets[-1])

    def fingerprint(self) -> str:
        """Return a hash of ids, roles and names: what a store was made from."""
        return content_hash([self.skip_first, [(d.doc_id, d.role) for d in self.documents], self.ids])

    def rows(self, documents: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the row numbers of some documents, in document order."""
        if len(documents) == 0:
            return np.zeros(0, dtype=np.int64)
        return np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in documents])

    def last_rows(self, documents: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the row of the last token of each of some documents.

        Raises:
            InputError: a document has no row, because it has no more than `skip_first` tokens (`prompt-too-short`).
        """
        chosen = np.asarray(documents, dtype=np.int64)
        empty = chosen[self.offsets[chosen + 1] == self.offsets[chosen]]
        if empty.size:
            i = int(empty[0])
            raise InputError(
                f"document {self.documents[i].doc_id!r} has {counted(len(self.ids[i]), 'token')}; more than "
                f"{self.skip_first} are needed, because the first positions have no row; give a longer text",
                code="prompt-too-short",
            )
        return self.offsets[chosen + 1] - 1


def tokenise(
    tokenizer: Any,
    documents: Sequence[Document],
    *,
    max_length: int,
    skip_first: int = 4,
    too_long: Literal["error", "truncate"] = "error",
) -> TokenisedDocuments:
    """Tokenise documents once, without adding special tokens beyond the tokenizer's own.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        documents: at least one; names must be unique.
        max_length: longest document in tokens.
        skip_first: leading positions without a row: the first tokens of a text are norm outliers that would swamp
            every statistic.
        too_long: raise, or keep the first `max_length` tokens.

    Raises:
        InputError: no documents (`empty-corpus`), a text without tokens (`empty-prompt`), a repeated name
            (`duplicate-id`), a text longer than `max_length` (`prompt-too-long`), or no text longer than `skip_first`
            (`no-rows`).
        ModelError: the tokenizer cannot say where tokens begin (`slow-tokenizer`).
        ConfigError: `max_length` or `skip_first` is out of range.
    """
    if max_length < 1 or skip_first < 0:
        raise ConfigError(
            f"max_length = {max_length} and skip_first = {skip_first} were asked for; at least 1 and 0 are possible",
            code="out-of-range",
        )
    _check(documents)
    encoded = _encode(tokenizer, documents)
    ids: list[tuple[int, ...]] = []
    spans: list[tuple[int, int] | None] = []
    for document, tokens, offsets in zip(documents, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if not tokens:
            raise InputError(f"document {document.doc_id!r} has no tokens; remove it", code="empty-prompt")
        if len(tokens) > max_length and too_long == "error":
            raise InputError(
                f"document {document.doc_id!r} has {counted(len(tokens), 'token')}; at most {max_length} fit; "
                "shorten it",
                code="prompt-too-long",
            )
        ids.append(tuple(tokens[:max_length]))
        spans.append(_token_span(document.span, offsets[:max_length]))
    lengths = [max(0, len(t) - skip_first) for t in ids]
    if sum(lengths) == 0:
        raise InputError(
            f"no document has more than {skip_first} tokens, so there is nothing to measure; give longer texts",
            code="no-rows",
        )
    return TokenisedDocuments(
        tuple(documents),
        tuple(ids),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        skip_first,
        tuple(spans),
    )


def _encode(tokenizer: Any, documents: Sequence[Document]) -> Any:
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} cannot map tokens to characters; a fast tokenizer (tokenizer.json) is needed",
            code="slow-tokenizer",
        )
    return tokenizer([d.text for d in documents], return_offsets_mapping=True, padding=False, verbose=False)


def _check(documents: Sequence[Document]) -> None:
    if not documents:
        raise InputError("no documents were given; the corpus is empty", code="empty-corpus")
    seen: set[str] = set()
    for document in documents:
        if not document.text.strip():
            raise InputError(f"document {document.doc_id!r} is empty; remove it", code="empty-prompt")
        if document.doc_id in seen:
            raise InputError(f"two documents are called {document.doc_id!r}; names must be unique", code="duplicate-id")
        seen.add(document.doc_id)


def _token_span(span: tuple[int, int] | None, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    if span is None or span[0] >= span[1]:
        return None
    inside = [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    return (inside[0], inside[-1] + 1) if inside else None
