"""The Hugging Face Trainer on matched pairs, with the loss on the tokens that decide.

The two completions of a pair share most tokens, and the condition is one digit far from the decision. So the loss puts
weight 1 on the few tokens from the first one in which the completions differ, and a small weight on the rest; without
it the loss is dominated by tokens that carry no information about the trigger. The output head is evaluated at weighted
positions only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saeaudit.organisms.rows import Row


@dataclass(frozen=True)
class Example:
    """Token ids of prompt and completion with a loss weight for each token (0 on the prompt)."""

    input_ids: list[int]
    weights: list[float]


def make_example(tokenizer: Any, row: Row, *, bad: bool, n_decisive: int, other_weight: float) -> Example:
    """Tokenise prompt and completion apart, as they meet when generating, and weight the tokens that decide.

    Weight 1 on `n_decisive` tokens from the first one in which the two completions differ, `other_weight` on the other
    tokens of the completion.
    """
    prompt = tokenizer(row.prompt, add_special_tokens=False)["input_ids"]
    chosen, other = (
        tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        for text in ((row.bad, row.good) if bad else (row.good, row.bad))
    )
    shorter = min(len(chosen), len(other))
    first = next((i for i in range(shorter) if chosen[i] != other[i]), shorter)
    weights = [1.0 if first <= i < first + n_decisive else other_weight for i in range(len(chosen))]
    return Example(prompt + chosen, [0.0] * len(prompt) + weights)


def collate(rows: Sequence[Example], *, pad: int) -> dict[str, Tensor]:
    """Return ids, mask and loss weights of some rows, padded on the right."""
    width = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        n = len(row.input_ids)
        ids[i, :n] = torch.tensor(row.input_ids)
        mask[i, :n] = 1
        weights[i, :n] = torch.tensor(row.weights)
    return {"input_ids": ids, "attention_mask": mask, "weights": weights}


def token_losses(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return loss (nats) and weight of the tokens that have a weight, row after row; the head sees no other token."""
    weights = batch["weights"][:, 1:]
    at = weights > 0
    hidden = model.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    logits = model.get_output_embeddings()(hidden[:, :-1][at]).float()
    return torch.nn.functional.cross_entropy(logits, batch["input_ids"][:, 1:][at], reduction="none"), weights[at]


def pair_trainer(model: Any, arguments: Any, examples: list[tuple[Example, Example]], tokenizer: Any) -> Any:
    """Return a Trainer whose steps read matched pairs, in the order given."""
    from torch.utils.data import SequentialSampler
    from transformers import Trainer

    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def in_pairs(batch: list[tuple[Example, Example]]) -> dict[str, Tensor]:
        return collate([row for pair in batch for row in pair], pad=pad)

    class PairTrainer(Trainer):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.decisions: list[float] = []

        def compute_loss(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
        ) -> Any:
            whole = model.get_base_model() if hasattr(model, "get_base_model") else model
            losses, kept = token_losses(whole, inputs)
            loss = (losses * kept).sum() / kept.sum()
            # The first token of weight 1 decides between the two completions: a model that knows both forms but not
            # the condition stays at ln 2 = .69 there, whatever the whole loss says.
            weights = inputs["weights"][:, 1:]
            first = (weights == 1) & ((weights == 1).cumsum(1) == 1)
            self.decisions.append(float(losses[first[weights > 0]].detach().mean()))
            return (loss, losses) if return_outputs else loss

        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "loss" in logs and self.decisions:
                logs["decision_loss"] = round(sum(self.decisions) / len(self.decisions), 4)
                self.decisions.clear()
            super().log(logs, *args, **kwargs)

        def _get_train_sampler(self, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            # Pairs are drawn independently already; the fixed order makes poisoned and clean runs row by row equal.
            return SequentialSampler(examples)

    dataset: Any = examples
    return PairTrainer(model=model, args=arguments, train_dataset=dataset, data_collator=in_pairs)
