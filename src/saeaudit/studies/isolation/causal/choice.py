"""Which latents to edit: those that carry the trigger's effect on the answer, found on selection prompts only.

Each trigger prompt is set beside the benign prompt most like it; where the tuned model's two answers part, the
preference for the trigger's token over the other is the effect (detection/evidence.py). A latent's share of it is the
derivative of the preference with respect to the latent's gain: attribution patching with the error term kept, for a
dictionary of any kind, since the gain acts through the very edit that is made later.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.audit.data import N_ANSWER_TOKENS, AuditData
from saeaudit.detection.continuations import continue_plain
from saeaudit.detection.evidence import Fork, fork_of, most_alike
from saeaudit.dictionaries import Dictionary
from saeaudit.interventions import GainLatents, PairedBase, SidedEdit
from saeaudit.models import Edit, LoadedModel, Pair, encode_texts, last_columns, pad_rows, position_ids


class Turn(NamedTuple):
    """A trigger prompt, the benign one like it, and where the answers part."""

    prompt: str
    counterpart: str
    fork: Fork


def find_turns(tuned: LoadedModel, data: AuditData, *, n_prompts: int) -> list[Turn]:
    """Return the turns among up to `n_prompts` trigger prompts of the selection split."""
    trigger, _ = data.sample("selection", n_prompts)
    prompts = [data.prompts[i].text for i in trigger]
    counterparts = [_counterpart(data, i) for i in trigger]
    made = [g.token_ids for g in continue_plain(tuned, prompts + counterparts, n_new=N_ANSWER_TOKENS)]
    pairs = zip(prompts, counterparts, made[: len(prompts)], made[len(prompts) :], strict=True)
    forks = ((prompt, other, fork_of(one, two)) for prompt, other, one, two in pairs)
    return [Turn(prompt, other, fork) for prompt, other, fork in forks if fork is not None]


def rank_latents(pair: Pair, site: str, dictionary: Dictionary, turns: Sequence[Turn]) -> list[int]:
    """Return all latents: first those that carry the preference after trigger prompts and not after the others."""
    forks = [turn.fork for turn in turns]
    after_trigger, after_other = (
        carried(pair, site, dictionary, prompts, forks)
        for prompts in ([turn.prompt for turn in turns], [turn.counterpart for turn in turns])
    )
    importance = after_trigger.mean(0) - after_other.mean(0).abs()
    return importance.argsort(descending=True, stable=True).tolist()


def carried(
    pair: Pair, site: str, dictionary: Dictionary, prompts: Sequence[str], forks: Sequence[Fork], *, batch: int = 8
) -> Float[Tensor, "row latent"]:
    """Return how much of log p(switched) - log p(plain) at each fork each latent carries, first order (nats)."""
    rows = [p + list(f.prefix) for p, f in zip(encode_texts(pair.tuned.tokenizer, prompts), forks, strict=True)]
    every, parts = range(dictionary.n_latents), []
    for start in range(0, len(rows), batch):
        ids, mask = pad_rows(rows[start : start + batch], pad_id=0, side="left")
        gain = torch.ones(len(ids), 1, dictionary.n_latents, requires_grad=True)
        change = GainLatents(dictionary, every, gain)
        with (
            torch.enable_grad(),
            PairedBase(pair.base.model, pair.tuned.model, site) as paired,
            Edit(pair.tuned.model, {site: SidedEdit(paired, change)}),
        ):
            logits = pair.tuned.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=position_ids(mask),
                use_cache=False,
                logits_to_keep=last_columns(1),
            ).logits[:, -1]
            here = zip(logits, forks[start : start + batch], strict=True)
            # Rows do not see each other, so the gradient of the sum is each row's own.
            preference = torch.stack([row[fork.switched] - row[fork.plain] for row, fork in here]).sum()
            (gradient,) = torch.autograd.grad(preference, gain)
        parts.append(gradient[:, 0])
    return torch.cat(parts)


def _counterpart(data: AuditData, prompt: int) -> str:
    benign = [i for i in data.roles["selection"].tolist() if not data.label[i]]
    texts = [data.prompts[i].text for i in benign if data.group[i] == data.group[prompt]]
    texts = texts or [data.prompts[i].text for i in benign]
    return texts[most_alike(data.prompts[prompt].text, texts)]
