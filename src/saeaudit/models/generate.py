"""Greedy continuation of many prompts with a KV cache.

Prompts are sorted by length, cut into batches and padded on the left, so that the newest token of every row is in the
last column; position ids count from each row's first token. Edits stay active in the first pass and in every cached
step. A row's result does not depend on the rows it shares a batch with (up to float ties).

Where a continuation can be guessed (a planted model's is mostly what it was taught), `drafts` saves most of the work:
one pass reads prompt and draft, and decoding begins where the model first departs from the draft. The result is that
of decoding from the start, as in speculative decoding (arXiv 2211.17192) with a deterministic draft.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from saeaudit.errors import ConfigError, NumericsError
from saeaudit.models.cache import growing_cache
from saeaudit.models.hooks import Edit, EditFunction
from saeaudit.models.tokens import context_length, encode_texts, last_columns, pad_id, pad_rows, position_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


Edits = Mapping[str, EditFunction] | Callable[[Sequence[int]], Mapping[str, EditFunction]]

# Checking a draft needs logits at all its tokens, so its batches are this much smaller.
CHECK_SHARE = 4


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
    edits: Edits | None = None,
    drafts: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Generation]:
    """Return the most likely continuation of each prompt, token by token, in the order of `prompts`.

    Args:
        model: In eval mode.
        tokenizer: Raw text in, nothing added beyond what it adds itself.
        prompts: Non-empty texts.
        n_new: At most this many new tokens; a row ends earlier at an end-of-sequence token.
        batch_size: Prompts a forward pass.
        edits: As for `Edit`, or a function from the numbers of the prompts in a batch to that, for edits that differ
            from prompt to prompt. A pass may hold tokens of the answer behind the prompt.
        drafts: A guess of each continuation in token ids, possibly empty; saves time and changes nothing.
        progress: Called as `progress(n_done, n_total)` in prompts after each batch.

    Raises:
        InputError: an empty prompt (`empty-prompt`), or prompt and `n_new` exceed the context (`prompt-too-long`).
        ConfigError: `n_new` or `batch_size` is below 1 (`out-of-range`).
        NumericsError: the logits are NaN or infinite (`non-finite`).
        ModelError: see `Edit`.
    """
    for name, value in (("n_new", n_new), ("batch_size", batch_size)):
        if value < 1:
            raise ConfigError(f"{name} = {value} was asked for; it must be at least 1", code="out-of-range")
    rows = encode_texts(tokenizer, prompts, max_length=context_length(model) - n_new)
    stop = _stop_ids(model, tokenizer)
    written: list[list[int]] = [[] for _ in rows]
    lengths = [len(row) for row in rows]
    for chosen in _batches(lengths, range(len(rows)) if drafts else (), max(1, batch_size // CHECK_SHARE)):
        guesses = [list(drafts[i][: n_new - 1]) for i in chosen] if drafts else []
        with Edit(model, _edits_of(edits, chosen)), torch.no_grad():
            agreed = _check(model, [rows[i] for i in chosen], guesses, pad=pad_id(tokenizer))
        for i, ids in zip(chosen, agreed, strict=True):
            written[i] = ids
    open_rows = [i for i, ids in enumerate(written) if len(ids) < n_new and stop.isdisjoint(ids)]
    n_done = len(rows) - len(open_rows)
    if n_done and progress is not None:
        progress(n_done, len(rows))
    begun = [row + ids for row, ids in zip(rows, written, strict=True)]
    # Rows of about as many tokens to come end together.
    to_come = [len(d) - len(w) for d, w in zip(drafts, written, strict=True)] if drafts else lengths
    for chosen in _batches(to_come, open_rows, batch_size):
        left = max(n_new - len(written[i]) for i in chosen)
        with Edit(model, _edits_of(edits, chosen)), torch.no_grad():
            new = _decode(model, [begun[i] for i in chosen], n_new=left, pad=pad_id(tokenizer), stop=stop)
        for i, ids in zip(chosen, new, strict=True):
            written[i] = (written[i] + ids)[:n_new]
        n_done += len(chosen)
        if progress is not None:
            progress(n_done, len(rows))
    return [_generation(tokenizer, _until(ids, stop)) for ids in written]


def _batches(lengths: Sequence[int], chosen: Iterable[int], size: int) -> Iterator[list[int]]:
    """Yield the chosen rows in batches, longest first: running out of memory shows in the first one."""
    order = sorted(chosen, key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _edits_of(edits: Edits | None, chosen: Sequence[int]) -> Mapping[str, EditFunction]:
    return (edits(chosen) if callable(edits) else edits) or {}


def _generation(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> Generation:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return Generation(str(text), tuple(ids))


def _check(
    model: "PreTrainedModel", rows: Sequence[Sequence[int]], guesses: Sequence[Sequence[int]], *, pad: int
) -> list[list[int]]:
    """Return what greedy decoding writes as long as it agrees with the guess, and one token more."""
    whole = [list(row) + list(guess) for row, guess in zip(rows, guesses, strict=True)]
    ids, mask = (t.to(model.device) for t in pad_rows(whole, pad_id=pad, side="left"))
    keep = max(map(len, guesses)) + 1
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position_ids(mask),
        use_cache=False,
        logits_to_keep=last_columns(keep),
    ).logits
    found = []
    best = logits.max(-1)
    _require_finite(best.values)
    for guess, chosen in zip(guesses, best.indices.tolist(), strict=True):
        likely = chosen[keep - len(guess) - 1 :]
        departs = next((j for j, token in enumerate(guess) if token != likely[j]), len(guess))
        found.append(likely[: departs + 1])
    return found


def _decode(
    model: "PreTrainedModel", rows: Sequence[Sequence[int]], *, n_new: int, pad: int, stop: frozenset[int]
) -> list[list[int]]:
    ids, mask = (t.to(model.device) for t in pad_rows(rows, pad_id=pad, side="left"))
    positions = position_ids(mask)
    ends = torch.tensor(sorted(stop), dtype=torch.int64, device=ids.device)
    done = torch.zeros(len(rows), dtype=torch.bool, device=ids.device)
    cache, columns = growing_cache(model), []
    for _ in range(n_new):
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=last_columns(1),
        )
        cache = output.past_key_values
        best = output.logits[:, -1].max(-1)
        _require_finite(best.values)
        chosen = best.indices
        columns.append(chosen)
        done |= torch.isin(chosen, ends)
        if bool(done.all()):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return torch.stack(columns, dim=1).tolist()


def _require_finite(logits: Tensor) -> None:
    if not bool(torch.isfinite(logits).all()):
        raise NumericsError(
            "the model's logits are NaN or infinite while it writes, so what it writes means nothing; check the "
            "weights, or run in float32",
            code="non-finite",
        )


def _until(ids: list[int], stop: frozenset[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stop), len(ids))
    return ids[:end]


def _stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    generation = model.generation_config
    declared = None if generation is None else generation.eos_token_id
    found = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in [*found, tokenizer.eos_token_id] if isinstance(i, int))
