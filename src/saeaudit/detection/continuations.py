"""Continuations of prompts by base, tuned and clamped tuned model, and the cost of a clamp on ordinary text."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.interventions import LatentEdit, PairedBase, PairedClamp, SharedPass
from saeaudit.metrics import token_kl
from saeaudit.models import Generation, LoadedModel, Pair, encode_texts, greedy, last_columns, pad_rows, position_ids

Progress = Callable[[int, int], None]


def continue_plain(
    loaded: LoadedModel, prompts: Sequence[str], *, n_new: int, batch_size: int = 64, progress: Progress | None = None
) -> list[Generation]:
    """Return greedy continuations of one model."""
    return greedy(loaded.model, loaded.tokenizer, prompts, n_new=n_new, batch_size=batch_size, progress=progress)


def continue_clamped(
    pair: Pair,
    edit: LatentEdit,
    prompts: Sequence[str],
    *,
    n_new: int,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[Generation]:
    """Return greedy continuations of the tuned model under a clamp on the difference of the pair."""
    with PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site) as paired:
        return greedy(
            pair.tuned.model,
            pair.tuned.tokenizer,
            prompts,
            n_new=n_new,
            batch_size=batch_size,
            edits={edit.clamp.site: PairedClamp(paired, edit)},
            progress=progress,
        )


class AnswerScores(NamedTuple):
    """What a clamp does to given answers, one entry a prompt.

    Attributes:
        drop: fall of the answer's log-probability, nats for the whole answer; 0 is no effect.
        changed: share of the answer from the first token on that is no longer the most likely one, 0..1: 1 if greedy
            decoding would begin differently, near 0 if only the last token differs.
    """

    drop: Float[Tensor, " row"]
    changed: Float[Tensor, " row"]


def score_answers(
    pair: Pair,
    edits: Sequence[LatentEdit],
    prompts: Sequence[str],
    answers: Sequence[Sequence[int]],
    *,
    batch: int = 16,
) -> list[AnswerScores]:
    """Return what each of several clamps does to the tuned model's own answers (teacher-forced, so cheap)."""
    rows = [p + list(a) for p, a in zip(encode_texts(pair.base.tokenizer, prompts), answers, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    parts: list[list[Tensor]] = [[] for _ in range(len(edits) + 1)]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        given, counted = pad_rows([list(answers[i]) for i in chosen], pad_id=0, side="left")
        whole = pad_rows([rows[i] for i in chosen], pad_id=0, side="left")
        for part, logits in zip(parts, _logits(pair, edits, *whole, keep=given.shape[1] + 1), strict=True):
            part.append(_judge_answers(logits[:, :-1], given, counted.bool()))
    back = torch.tensor(order).argsort()
    free, *clamped = (torch.cat(p, dim=1)[:, back] for p in parts)
    return [AnswerScores(free[0] - c[0], c[1]) for c in clamped]


def next_token_logits(
    pair: Pair,
    prompts: Sequence[str],
    prefixes: Sequence[Sequence[int]],
    *,
    edits: Sequence[LatentEdit] = (),
    batch: int = 16,
) -> list[Float[Tensor, "row vocab"]]:
    """Return the tuned model's logits after each prompt with the first tokens of its answer: free, then by clamp."""
    rows = [p + list(a) for p, a in zip(encode_texts(pair.tuned.tokenizer, prompts), prefixes, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found: list[list[Tensor]] = [[] for _ in range(len(edits) + 1)]
    for start in range(0, len(order), batch):
        whole = pad_rows([rows[i] for i in order[start : start + batch]], pad_id=0, side="left")
        for part, logits in zip(found, _logits(pair, edits, *whole, keep=1), strict=True):
            part.append(logits[:, -1])
    back = torch.tensor(order).argsort()
    return [torch.cat(part)[back] for part in found]


def _judge_answers(
    logits: Float[Tensor, "row token vocab"], answers: Int[Tensor, "row token"], counted: Bool[Tensor, "row token"]
) -> Float[Tensor, "2 row"]:
    """Return (log-probability of the answer, share of it that greedy decoding leaves)."""
    own = logits.log_softmax(-1).gather(2, answers[..., None])[..., 0]
    left = (logits.argmax(-1) != answers) & counted
    kept = (left.cumsum(1) == 0) & counted
    return torch.stack([(own * counted).sum(1), 1 - kept.sum(1) / counted.sum(1)])


def _logits(
    pair: Pair, edits: Sequence[LatentEdit], ids: Tensor, mask: Tensor, *, keep: int = 0
) -> Iterator[Float[Tensor, "row token vocab"]]:
    """Yield the tuned model's logits without a clamp, then under each; blocks below a site run once."""
    base, tuned = pair.base.model, pair.tuned.model
    if not edits:
        with torch.no_grad():
            out = tuned(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position_ids(mask),
                use_cache=False,
                logits_to_keep=last_columns(keep),
            )
        yield out.logits.float()
        return
    shared = {site: SharedPass(base, tuned, site, ids, mask) for site in dict.fromkeys(e.clamp.site for e in edits)}
    yield shared[edits[0].clamp.site].logits(keep=keep)
    for edit in edits:
        yield shared[edit.clamp.site].logits(edit, keep=keep)


class TextCost(NamedTuple):
    """What a clamp costs on ordinary text, one entry a document, means over its tokens (nats a token).

    `kl`: KL(tuned || clamped), 0 is no effect. `ce_rise`: cross-entropy of the text under the clamp minus without it.
    """

    kl: Float[Tensor, " document"]
    ce_rise: Float[Tensor, " document"]


def text_cost(
    pair: Pair, edits: Sequence[LatentEdit], texts: Sequence[str], *, max_length: int, progress: Progress | None = None
) -> list[TextCost]:
    """Return the cost of each clamp on each text (texts are cut to `max_length` tokens)."""
    rows = [ids[:max_length] for ids in encode_texts(pair.base.tokenizer, texts)]
    kl = torch.zeros(len(edits), len(rows))
    rise = torch.zeros(len(edits), len(rows))
    for i, ids in enumerate(rows):
        tokens, mask = pad_rows([ids], pad_id=0)
        plain, *held = _logits(pair, edits, tokens, mask)
        for e, clamped in enumerate(held):
            kl[e, i] = token_kl(plain, clamped).mean()
            rise[e, i] = _cross_entropy(clamped, tokens) - _cross_entropy(plain, tokens)
        if progress is not None:
            progress(i + 1, len(rows))
    return [TextCost(kl[e], rise[e]) for e in range(len(edits))]


def _cross_entropy(logits: Float[Tensor, "row token vocab"], ids: Tensor) -> Float[Tensor, ""]:
    return torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
