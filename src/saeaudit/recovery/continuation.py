"""The clamped model as a function of a perturbation at the last prompt token: how far it is from its old answer.

What does not depend on the perturbation is computed once, without gradients:

1. Keys and values of all prompt columns but the last, under the clamp.
2. The residual that leaves the clamp at the site, for the last prompt column and the teacher-forced answer columns.

A call then runs only the blocks above the site, only on those few columns, for all rows (item x budget) at once. The
answer to recover is the model's own continuation without the clamp; a row succeeds when every one of its tokens is
again the most likely one, so that greedy decoding would write them.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saeaudit.models import Capture, Edit, pad_rows
from saeaudit.models.blocks import with_child
from saeaudit.models.sites import blocks, decoder, resolve_site
from saeaudit.models.tokens import position_ids
from saeaudit.recovery.search import RowScores

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GOAL = 0.1


class ClampedContinuation:
    """Objective of the search: recover given answers of a clamped model.

    Args:
        model: tuned model; the clamp is entered by `clamp`.
        site: of the clamp; the perturbation is added to what leaves it there.
        clamp: returns a context in which the clamp is active, with the edit to install at the site.
        prompts: token ids of each item.
        targets: token ids of the answer to recover, at least one an item.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        site: str,
        clamp: "Callable[[ExitStack], Any]",
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
    ) -> None:
        self._model = model
        self._n_lower = resolve_site(model, site).index + 1
        ids, mask = pad_rows(prompts, pad_id=0, side="left")
        answers, counted = pad_rows(targets, pad_id=0, side="right")
        self._answers: Int[Tensor, "item token"] = answers
        self._counted: Float[Tensor, "item token"] = counted.float()
        inputs = torch.cat([ids[:, -1:], answers[:, :-1]], dim=1)
        self._inputs = inputs
        self._mask = torch.cat([mask, torch.ones(inputs.shape[0], inputs.shape[1] - 1, dtype=mask.dtype)], dim=1)
        self._positions = position_ids(self._mask)[:, -inputs.shape[1] :]
        with ExitStack() as stack, torch.no_grad():
            edit = clamp(stack)
            stack.enter_context(Edit(model, {site: edit}))
            captured = stack.enter_context(Capture(model, [site]))
            before = decoder(model)(
                input_ids=ids[:, :-1],
                attention_mask=mask[:, :-1],
                position_ids=position_ids(mask)[:, :-1],
                use_cache=True,
            )
            self._keys_values = [(k.clone(), v.clone()) for k, v in _layers(before.past_key_values)]
            decoder(model)(
                input_ids=inputs,
                attention_mask=self._mask,
                position_ids=self._positions,
                past_key_values=before.past_key_values,
                use_cache=True,
            )
            self.clamped: Float[Tensor, "item token d_model"] = captured.values[site].float()

    @property
    def anchor_norm(self) -> Float[Tensor, " item"]:
        """Norm of the clamped residual that the perturbation is added to: the unit of relative budgets."""
        return self.clamped[:, 0].norm(dim=-1)

    def __call__(self, delta: Float[Tensor, "row d_model"], item: Int[Tensor, " row"]) -> RowScores:
        """Return loss and margin of each row; `item` tells which item a row perturbs."""
        h = torch.cat([(self.clamped[item, :1] + delta[:, None]), self.clamped[item, 1:]], dim=1)
        upper = with_child(
            decoder(self._model),
            blocks(self._model),
            nn.ModuleList(
                [
                    *(_Given(block, h) for block in blocks(self._model)[: self._n_lower]),
                    *blocks(self._model)[self._n_lower :],
                ]
            ),
        )
        out = upper(
            input_ids=self._inputs[item],
            attention_mask=self._mask[item],
            position_ids=self._positions[item],
            past_key_values=self._cache(item),
            use_cache=True,
        ).last_hidden_state
        logits = self._model.get_output_embeddings()(
            out.to(next(self._model.get_output_embeddings().parameters()).dtype)
        )
        return self._scores(logits.float(), item)

    def _cache(self, item: Int[Tensor, " row"]) -> Any:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (keys, values) in enumerate(self._keys_values):
            cache.update(keys[item], values[item], layer)
        return cache

    def _scores(self, logits: Float[Tensor, "row token vocab"], item: Int[Tensor, " row"]) -> RowScores:
        answers, counted = self._answers[item], self._counted[item]
        own = logits.gather(2, answers[..., None])[..., 0]
        others = logits.scatter(2, answers[..., None], -torch.inf).amax(2)
        margin = own - others
        loss = (torch.relu(GOAL - margin) * counted).sum(1) / counted.sum(1)
        worst = torch.where(counted > 0, margin, torch.inf).amin(1)
        return RowScores(loss, worst)


class _Given(nn.Module):
    """Stands for a block below the site: hands on the residual that is known already."""

    def __init__(self, block: nn.Module, h: Tensor) -> None:
        super().__init__()
        self._h = h
        if hasattr(block, "attention_type"):
            self.attention_type = block.attention_type

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self._h


def _layers(cache: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in cache.layers]
