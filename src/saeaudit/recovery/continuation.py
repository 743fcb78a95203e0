"""The clamped model as a function of a perturbation at the last prompt token: how far it is from its old answer.

What does not depend on the perturbation is computed once, without gradients:

1. Keys and values of all prompt columns but the last, under the clamp.
2. The residual that leaves the clamp at the site, for the last prompt column and the teacher-forced answer columns.
   Those of the answer do not depend on the perturbation either: it enters above the blocks that made them.

A call then runs only the blocks above the site, only on those few columns, for all rows (item x budget) at once. The
answer to recover is the model's own continuation without the clamp; a row succeeds when every one of its tokens is
again the most likely one, so that greedy decoding would write them.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import InputError
from saeaudit.models import Capture, Edit, EditFunction, decoder, pad_rows, position_ids, resolve_site, resumed_at
from saeaudit.recovery.search import RowScores
from saeaudit.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GOAL = 0.1


class ClampedContinuation:
    """Objective of the search: recover given answers of a clamped model.

    Args:
        model: tuned model; the clamp is entered by `clamp`.
        site: of the clamp; the perturbation is added to what leaves it there.
        clamp: enters what the clamp needs on the stack and returns the edit to install at the site.
        prompts: token ids of each item, at least two.
        targets: token ids of the answer to recover, at least one an item.

    Attributes:
        clamped: "item token d_model", residual that leaves the clamp at the last prompt token and the answer tokens.

    Raises:
        InputError: a prompt of one token (`prompt-too-short`), or an empty answer (`empty-answer`).
        ModelError: unknown site.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        site: str,
        clamp: Callable[[ExitStack], EditFunction],
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
    ) -> None:
        _require_tokens(prompts, targets)
        self._model = model
        self._n_lower = resolve_site(model, site).index + 1
        ids, mask = pad_rows(prompts, pad_id=0, side="left")
        answers, counted = pad_rows(targets, pad_id=0, side="right")
        self._answers: Int[Tensor, "item token"] = answers
        self._counted: Float[Tensor, "item token"] = counted.float()
        self._inputs = torch.cat([ids[:, -1:], answers[:, :-1]], dim=1)
        self._mask = torch.cat([mask, torch.ones_like(answers[:, :-1])], dim=1)
        self._positions = position_ids(self._mask)[:, ids.shape[1] - 1 :]
        with ExitStack() as stack, torch.no_grad():
            stack.enter_context(Edit(model, {site: clamp(stack)}))
            captured = stack.enter_context(Capture(model, [site]))
            cache = _new_cache()
            decoder(model)(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=position_ids(mask)[:, :-1],
                past_key_values=cache,
                use_cache=True,
            )
            # The cache appends to fresh tensors, so these stay as they are.
            self._keys_values = [(layer.keys, layer.values) for layer in cache.layers]
            decoder(model)(
                input_ids=self._inputs,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=cache,
                use_cache=True,
            )
            self._dtype = captured.values[site].dtype
            self.clamped: Float[Tensor, "item token d_model"] = captured.values[site].float()

    @property
    def anchor_norm(self) -> Float[Tensor, " item"]:
        """Norm of the clamped residual that the perturbation is added to: the unit of relative budgets."""
        return self.clamped[:, 0].norm(dim=-1)

    def __call__(self, delta: Float[Tensor, "row d_model"], item: Int[Tensor, " row"]) -> RowScores:
        """Return loss and margin of each row; `item` tells which item a row perturbs.

        The margin is the smallest over the answer's tokens of logit(token) - largest other logit; the loss is the mean
        over tokens of what each lacks of a margin of 0.1, so a row that has what it wants has no gradient.
        """
        h = torch.cat([self.clamped[item, :1] + delta[:, None], self.clamped[item, 1:]], dim=1).to(self._dtype)
        upper = resumed_at(self._model, self._n_lower, h)
        out = upper(
            input_ids=self._inputs[item],
            attention_mask=self._mask[item],
            position_ids=self._positions[item],
            past_key_values=self._cache(item),
            use_cache=True,
        )
        return self._scores(out.logits.float(), item)

    def _cache(self, item: Int[Tensor, " row"]) -> Any:
        cache = _new_cache()
        for layer, (keys, values) in enumerate(self._keys_values):
            # Blocks below the site do not run; of their layers only the number of columns is asked.
            rows = item if layer >= self._n_lower else item[:1]
            cache.update(keys[rows], values[rows], layer)
        return cache

    def _scores(self, logits: Float[Tensor, "row token vocab"], item: Int[Tensor, " row"]) -> RowScores:
        answers, counted = self._answers[item], self._counted[item]
        # Only two logits of a column carry gradient; that of a maximum over the vocabulary would pass over all of them.
        rival = logits.detach().scatter(2, answers[..., None], -torch.inf).argmax(2)
        own, other = logits.gather(2, torch.stack([answers, rival], 2)).unbind(2)
        margin = own - other
        loss = (torch.relu(GOAL - margin) * counted).sum(1) / counted.sum(1)
        worst = torch.where(counted > 0, margin, torch.inf).amin(1)
        return RowScores(loss, worst)


def _new_cache() -> Any:
    """Return a cache that keeps every key, also where the model reads a sliding window only: columns stay aligned."""
    from transformers import DynamicCache

    return DynamicCache()


def _require_tokens(prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
    short = next((i for i, prompt in enumerate(prompts) if len(prompt) < 2), None)
    if short is not None:
        raise InputError(
            f"prompt {short} has {counted(len(prompts[short]), 'token')}; a perturbation at the last one needs one "
            "before it",
            code="prompt-too-short",
        )
    empty = next((i for i, target in enumerate(targets) if not target), None)
    if empty is not None:
        raise InputError(f"item {empty} has an empty answer, so there is nothing to bring back", code="empty-answer")
