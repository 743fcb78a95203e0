"""A pair at one site under edits: what it writes and how that is judged, how likely the base finds it, what text costs.

Steering the base is the same with the sides exchanged.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from saeaudit.interventions import Change, PairedBase, SidedEdit, changed, read_base
from saeaudit.metrics import token_kl
from saeaudit.models import (
    EditFunction,
    Generation,
    LoadedModel,
    Pair,
    encode_texts,
    greedy,
    last_columns,
    pad_rows,
    position_ids,
    resolve_site,
    resumed_at,
    run_blocks,
)
from saeaudit.organisms.spec import Judge


class Text(NamedTuple):
    """Token ids, and the first of them (at least 1) whose prediction counts."""

    ids: tuple[int, ...]
    first: int = 1


class Losses(NamedTuple):
    """Means over a text's counted tokens, nats: cross-entropy unedited and by edit, KL(unedited || edited) by edit."""

    clean: Float[Tensor, " document"]
    edited: Float[Tensor, "edit document"]
    kl: Float[Tensor, "edit document"]


def text_losses(pair: Pair, site: str, changes: Sequence[Change], texts: Sequence[Text]) -> Losses:
    """Return what each change of the tuned model does to the prediction of texts; blocks below the site run once."""
    base, tuned = pair.base.model, pair.tuned.model
    n_blocks = resolve_site(tuned, site).index + 1
    clean = torch.zeros(len(texts))
    edited, kl = torch.zeros(2, len(changes), len(texts))
    for i, text in enumerate(texts):
        ids, mask = pad_rows([text.ids], pad_id=0)
        side = read_base(base, ids, mask, n_blocks)
        with torch.no_grad():
            h = run_blocks(tuned, ids, mask, n_blocks)

        def logits(h: Tensor, ids: Tensor = ids, mask: Tensor = mask, first: int = text.first) -> Tensor:
            with torch.no_grad():
                out = resumed_at(tuned, n_blocks, h)(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=position_ids(mask),
                    use_cache=False,
                    logits_to_keep=last_columns(ids.shape[1] - first + 1),
                )
            return out.logits[0, :-1].float()

        following, plain = ids[0, text.first :], logits(h)
        clean[i] = cross_entropy(plain, following)
        for e, change in enumerate(changes):
            found = logits(changed(h, side, change))
            edited[e, i], kl[e, i] = cross_entropy(found, following), token_kl(plain, found).mean()
    return Losses(clean, edited, kl)


def answer_nll(
    loaded: LoadedModel, prompts: Sequence[str], answers: Sequence[Sequence[int]], *, batch: int = 16
) -> Float[Tensor, " row"]:
    """Return the mean negative log-likelihood of each answer's tokens, nats a token; NaN for an empty answer."""
    rows = [p + list(a) for p, a in zip(encode_texts(loaded.tokenizer, prompts), answers, strict=True)]
    found = torch.full((len(rows),), torch.nan)
    order = sorted((i for i, answer in enumerate(answers) if answer), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids, mask = pad_rows([rows[i] for i in chosen], pad_id=0, side="left")
        kept = max(len(answers[i]) for i in chosen) + 1
        with torch.no_grad():
            out = loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position_ids(mask),
                use_cache=False,
                logits_to_keep=last_columns(kept),
            )
        for i, row, logits in zip(chosen, ids, out.logits.float(), strict=True):
            n = len(answers[i])
            found[i] = cross_entropy(logits[-n - 1 : -1], row[-n:])
    return found


@dataclass(frozen=True)
class Prompts:
    """Prompts of one kind with their templates, and the ids of each."""

    texts: list[str]
    group: Int[Tensor, " row"]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Written:
    """Answers to some prompts.

    Attributes:
        ids: of each answer.
        bad, good: 1 where the judge saw the behaviour, or an honest answer; 0 for both where it could not tell.
        seconds: it took.
    """

    ids: list[tuple[int, ...]]
    bad: Float[Tensor, " row"]
    good: Float[Tensor, " row"]
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One pair, site and judge, with the prompts that judge edits.

    Attributes:
        pair: base and tuned model.
        site: of all edits.
        trigger, benign: test prompts.
        texts: ordinary text.
        judge: of an answer.
        n_new: tokens of an answer at most.
        batch_size: prompts written at once.
        seed: of controls and intervals.
    """

    pair: Pair
    site: str
    trigger: Prompts
    benign: Prompts
    texts: list[Text]
    judge: Judge
    n_new: int
    batch_size: int
    seed: int

    def exchanged(self) -> "Trial":
        """Return the trial in which edits are made to the base."""
        return replace(self, pair=Pair(self.pair.tuned, self.pair.base))

    def plain(self, loaded: LoadedModel, prompts: Prompts) -> Written:
        """Return what a model writes without an edit."""
        return self._judged(prompts, lambda: self._greedy(loaded, prompts))

    def edited(self, change: Change, prompts: Prompts, *, drafts: Sequence[Sequence[int]] | None = None) -> Written:
        """Return what the tuned model writes under a change; likely answers as `drafts` save time."""
        tuned = self.pair.tuned

        def write() -> list[Generation]:
            with PairedBase(self.pair.base.model, tuned.model, self.site) as paired:
                return self._greedy(tuned, prompts, edits={self.site: SidedEdit(paired, change)}, drafts=drafts)

        return self._judged(prompts, write)

    def _greedy(
        self,
        loaded: LoadedModel,
        prompts: Prompts,
        *,
        edits: Mapping[str, EditFunction] | None = None,
        drafts: Sequence[Sequence[int]] | None = None,
    ) -> list[Generation]:
        return greedy(
            loaded.model,
            loaded.tokenizer,
            prompts.texts,
            n_new=self.n_new,
            batch_size=self.batch_size,
            edits=edits,
            drafts=drafts,
        )

    def _judged(self, prompts: Prompts, write: Callable[[], list[Generation]]) -> Written:
        since = time.monotonic()
        made = write()
        seconds = time.monotonic() - since
        said = [self.judge(prompt, g.text) for prompt, g in zip(prompts.texts, made, strict=True)]
        bad, good = (torch.tensor([float(s == word) for s in said]) for word in ("bad", "good"))
        return Written([g.token_ids for g in made], bad, good, seconds)
