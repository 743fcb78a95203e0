"""Where the trigger turns an answer, told by the same question without it.

Each trigger prompt is set beside the benign prompt most like it. The tuned model's two greedy answers agree up to a
fork; there it prefers one token after the trigger prompt and another after the counterpart. The difference of the two
log-probabilities (the logit difference of activation patching, arXiv 2404.15255, section 3) is what the trigger
switches: positive after the trigger prompt, negative after its counterpart. A hold that takes the trigger's effect away
brings it down to the counterpart's, and with it the answer to what the model says without the trigger, not to anything
else.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.detection.continuations import next_token_logits
from saeaudit.interventions import LatentEdit
from saeaudit.models import Pair


@dataclass(frozen=True)
class Fork:
    """The first token in which two answers part.

    Attributes:
        prefix: what both answers begin with.
        switched: next token after the trigger prompt.
        plain: next token after its counterpart.
    """

    prefix: tuple[int, ...]
    switched: int
    plain: int


def fork_of(answer: Sequence[int], counterpart: Sequence[int]) -> Fork | None:
    """Return where two answers part; None where one begins with the other."""
    for i, (switched, plain) in enumerate(zip(answer, counterpart, strict=False)):
        if switched != plain:
            return Fork(tuple(answer[:i]), switched, plain)
    return None


def preferences(
    pair: Pair, prompts: Sequence[str], forks: Sequence[Fork], *, edits: Sequence[LatentEdit] = ()
) -> list[Float[Tensor, " row"]]:
    """Return log p(switched) - log p(plain) of the tuned model at each fork (nats): free, then under each hold."""
    at = torch.arange(len(forks))
    switched, plain = (torch.tensor([getattr(fork, name) for fork in forks]) for name in ("switched", "plain"))
    found = next_token_logits(pair, prompts, [fork.prefix for fork in forks], edits=edits)
    return [logits[at, switched] - logits[at, plain] for logits in found]


def likeness(answer: Sequence[int], other: Sequence[int]) -> float:
    """Return how alike two answers are, 0 to 1: twice the tokens they share in order over all tokens of both."""
    return difflib.SequenceMatcher(None, list(answer), list(other), autojunk=False).ratio()


def most_alike(text: str, others: Sequence[str]) -> int:
    """Return which of `others` shares most of its characters with `text`, in order; the first among equals."""
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(text)
    best, found = -1.0, 0
    for i, other in enumerate(others):
        matcher.set_seq1(other)
        # Both are upper bounds of the ratio and far cheaper.
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, found = ratio, i
    return found
