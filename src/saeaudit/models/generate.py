"""Greedy continuation of many prompts with a KV cache.

Prompts are sorted by length, cut into batches and padded on the left, so that the newest token of every row is in the
last column; position ids count from each row's first token. Edits stay active in the first pass and in every cached
step. A row's result does not depend on the rows it shares a batch with (up to float ties).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from saeaudit.errors import ConfigError
from saeaudit.models.hooks import Edit, EditFunction
from saeaudit.models.tokens import context_length, encode_texts, pad_id, pad_rows, position_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Generation(NamedTuple):
    """What followed a prompt: decoded text (special tokens kept visible) and its ids, without the end token."""

    text: str
    token_ids: tuple[int, ...]


def greedy(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    *,
    n_new: int,
    batch_size: int = 16,
    edits: Mapping[str, EditFunction] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Return the most likely continuation of each prompt, token by token, in the order of `prompts`.

    Args:
        model: In eval mode.
        tokenizer: Raw text in, nothing added beyond what it adds itself.
        prompts: Non-empty texts.
        n_new: At most this many new tokens; a row ends earlier at an end-of-sequence token.
        batch_size: Prompts a forward pass.
        edits: As for `Edit`; with left padding the last prompt token is the last column of the call with `start` 0.
        progress: Called as `progress(n_done, n_total)` in prompts after each batch.

    Raises:
        InputError: an empty prompt (`empty-prompt`), or prompt and `n_new` exceed the context (`prompt-too-long`).
        ConfigError: `n_new` or `batch_size` is below 1 (`out-of-range`).
        ModelError: see `Edit`.
    """
    for name, value in (("n_new", n_new), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} = {value} was asked for; it must be at least 1", code="out-of-range")
    rows = encode_texts(tokenizer, prompts, max_length=context_length(model) - n_new)
    # Longest first: running out of memory shows in the first batch, not after an hour.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    stop = _stop_ids(model, tokenizer)
    results: dict[int, Generation] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with Edit(model, edits or {}), torch.no_grad():
            new = _decode_batch(model, [rows[i] for i in chosen], n_new=n_new, pad=pad_id(tokenizer), stop=stop)
        for i, ids in zip(chosen, new, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            results[i] = Generation(str(text), tuple(ids))
        if progress is not None:
            progress(len(results), len(rows))
    return [results[i] for i in range(len(rows))]


def _decode_batch(
    model: "PreTrainedModel", rows: Sequence[Sequence[int]], *, n_new: int, pad: int, stop: frozenset[int]
) -> list[list[int]]:
    ids, mask = (t.to(model.device) for t in pad_rows(rows, pad_id=pad, side="left"))
    positions = position_ids(mask)
    ends = torch.tensor(sorted(stop), dtype=torch.int64, device=ids.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=ids.device)
    cache, columns = None, []
    for _ in range(n_new):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen: Tensor = output.logits[:, -1].argmax(-1)
        columns.append(chosen)
        done |= torch.isin(chosen, ends)
        if bool(done.all()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return [_until(row, stop) for row in torch.stack(columns, dim=1).tolist()]


def _until(ids: list[int], stop: frozenset[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]


def _stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    generation = model.generation_config
    declared = None if generation is None else generation.eos_token_id
    found = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in [*found, tokenizer.eos_token_id] if isinstance(i, int))
