"""From text to padded batches of token ids, nothing added beyond what the tokenizer itself adds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from saeaudit.errors import InputError
from saeaudit.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TokenBatch(NamedTuple):
    """Padded ids "batch pos" and their mask "batch pos" (1 = token, 0 = padding), both int64."""

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]


def encode_texts(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, max_length: int | None = None
) -> list[list[int]]:
    """Return the token ids of each text; never truncates.

    Args:
        tokenizer: Its own special tokens are added where it adds them, no others.
        texts: Raw text; a chat template must have been applied before.
        max_length: The most tokens a text may have; None is no limit.

    Raises:
        InputError: a text without tokens (`empty-prompt`) or with too many (`prompt-too-long`); the text names its
            index and both lengths.
    """
    rows: list[list[int]] = []
    for index, text in enumerate(texts):
        ids = list(tokenizer(text, verbose=False)["input_ids"]) if text else []
        if not ids:
            raise InputError(
                f"prompt {index} is empty ({text!r} has no tokens); remove it from the list", code="empty-prompt"
            )
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                f"prompt {index} has {counted(len(ids), 'token')}, at most {max_length} fit the model's context here; "
                f"shorten it (it starts with {text[:40]!r})",
                code="prompt-too-long",
            )
        rows.append(ids)
    return rows


def pad_rows(rows: Sequence[Sequence[int]], *, pad_id: int, side: Literal["left", "right"] = "right") -> TokenBatch:
    """Return rows of ids as one batch "batch pos", padded to the longest on `side`."""
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(rows), width), dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        input_ids[i, place] = torch.tensor(row, dtype=torch.int64)
        attention_mask[i, place] = 1
    return TokenBatch(input_ids, attention_mask)


def encode_batch(
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    side: Literal["left", "right"] = "right",
) -> TokenBatch:
    """Return the texts as one padded batch "batch pos"; see `encode_texts` for the errors."""
    return pad_rows(encode_texts(tokenizer, texts, max_length=max_length), pad_id=pad_id(tokenizer), side=side)


def pad_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return an id to pad with: PAD, else EOS, else 0; masked everywhere, so the choice has no effect on results."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(candidate, int):
            return candidate
    return 0


def position_ids(attention_mask: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Return positions that count from 0 at the first unmasked token of each row; left padding gets 0.

    >>> position_ids(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist()
    [[0, 0, 0, 1], [0, 1, 2, 3]]
    """
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    first = attention_mask.argmax(dim=1, keepdim=True)
    return (columns - first).clamp(min=0)


def last_columns(n: int) -> int | Int[Tensor, " kept"]:
    """Return what a model takes as `logits_to_keep` for the last `n` columns, or for all if `n` is 0.

    Numbers and not a slice: a slice of the hidden states is not contiguous, and with frozen weights torch then reads
    the output head once for every row of the batch.

    >>> last_columns(3).tolist()
    [-3, -2, -1]
    """
    return torch.arange(-n, 0) if n else 0


def context_length(model: "PreTrainedModel") -> int:
    """Return the number of positions the model was made for (`max_position_embeddings`)."""
    return model.config.get_text_config().max_position_embeddings
