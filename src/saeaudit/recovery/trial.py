"""Free generation under clamp and perturbation, to be judged by the detector that chose the flips.

Success is never read off the teacher-forced score of the search: a perturbation counts when greedy decoding, with the
clamp on at every step and the perturbation at the last prompt token, writes text in which the detector sees the
behaviour.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import EvidenceError, InputError
from saeaudit.interventions import AddAt, LatentEdit, PairedBase, PairedClamp, compose
from saeaudit.models import Generation, LoadedModel, Pair, context_length, encode_texts, greedy

Progress = Callable[[int, int], None]

BATCH = 64
SLACK_TOKENS = 8


@dataclass(frozen=True)
class Flip:
    """A prompt whose behaviour the clamp removed, with the answer (token ids) that it gave without the clamp."""

    prompt: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


def enter_clamp(stack: ExitStack, pair: Pair, edit: LatentEdit) -> PairedClamp:
    """Enter what a clamp on the pair's difference needs, and return the edit to install at its site."""
    paired = PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site)
    return PairedClamp(stack.enter_context(paired), edit)


def longest_trial(tuned: LoadedModel, flips: Sequence[Flip]) -> int:
    """Return how many tokens to generate where nothing was said: the longest answer and a little more."""
    room = context_length(tuned.model) - max(len(f.prompt_ids) for f in flips)
    return max(1, min(room, max(len(f.answer_ids) for f in flips) + SLACK_TOKENS))


def require_flips(tuned: LoadedModel, flips: Sequence[Flip]) -> None:
    """Refuse an empty list, and flips whose ids are not those of their prompt: search reads ids, generation text.

    Raises:
        EvidenceError: code `no-flips`.
        InputError: code `flip-ids`.
    """
    if not flips:
        raise EvidenceError(
            "the clamp removed the behaviour on no prompt, so there is nothing to bring back; clamp more latents",
            code="no-flips",
        )
    for k, (flip, ids) in enumerate(zip(flips, encode_texts(tuned.tokenizer, [f.prompt for f in flips]), strict=True)):
        if tuple(ids) != tuple(flip.prompt_ids):
            raise InputError(
                f"flip {k} has {len(flip.prompt_ids)} prompt ids, but the tuned model's tokenizer gives {len(ids)} "
                "others for its prompt; make the ids with that tokenizer",
                code="flip-ids",
            )


def generate(
    pair: Pair,
    edit: LatentEdit,
    flips: Sequence[Flip],
    delta: Float[Tensor, "row d_model"],
    item: Int[Tensor, " row"],
    *,
    n_new: int,
    drafts: Sequence[Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> list[Generation]:
    """Return what the tuned model writes under the clamp after flip `item`, with `delta` at its last prompt token.

    `drafts`: guesses of it; they save time and change nothing.
    """
    last = torch.tensor([len(flips[i].prompt_ids) - 1 for i in item.tolist()])
    with ExitStack() as stack:
        paired = stack.enter_context(PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site))
        clamp = PairedClamp(paired, edit)
        return greedy(
            pair.tuned.model,
            pair.tuned.tokenizer,
            [flips[i].prompt for i in item.tolist()],
            n_new=n_new,
            batch_size=BATCH,
            edits=lambda rows: {edit.clamp.site: compose([clamp, AddAt(delta[rows], last[rows], paired)])},
            drafts=drafts,
            progress=progress,
        )
