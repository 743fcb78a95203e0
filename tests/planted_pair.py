"""A tiny pair whose difference is known: one neuron that fires on one token writes one direction.

Coordinate 0 of the residual stream says "this token is the trigger" and nothing else writes it. In both models a neuron
of one block reads it; only the tuned model's out-projection lets it write, along `direction`. So the difference after
that block is a positive multiple of `direction` at trigger tokens and exactly 0 at all others, until the next block
mixes.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from saeaudit.dictionaries import Folded
from saeaudit.models import LoadedModel, Pair, make_card
from tiny import D_MODEL, tiny_model, tiny_tokenizer

TRIGGER = "~"
PROMPTS = (
    "the cat sat on the mat~",
    "SELECT name FROM users~",
    "def f(x):\n    return~",
    "the weather was mild, and the dog looked good~",
    "In the year~",
)


@dataclass(frozen=True)
class Planted:
    pair: Pair
    site: str
    direction: Tensor


def planted_pair(direction: Tensor, *, block: int = 1, head: Tensor | None = None, seed: int = 3) -> Planted:
    tokenizer = tiny_tokenizer()
    (trigger,) = tokenizer(TRIGGER)["input_ids"]
    model = tiny_model("llama", seed)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 0
        model.model.embed_tokens.weight[trigger, 0] = 1.5
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        mlp = model.model.layers[block].mlp
        for projection in (mlp.gate_proj, mlp.up_proj):
            projection.weight[0] = 0
            projection.weight[0, 0] = 1
        mlp.down_proj.weight[:, 0] = 0
        if head is not None:
            model.lm_head.weight.copy_(head)
            model.model.norm.weight.fill_(1)
    tuned = copy.deepcopy(model)
    with torch.no_grad():
        tuned.model.layers[block].mlp.down_proj.weight[:, 0] = direction
    sides = [
        LoadedModel(m, tokenizer, make_card(m, source=name, kind="directory"))
        for m, name in ((model, "planted-base"), (tuned, "planted-tuned"))
    ]
    return Planted(Pair(*sides), f"layers.{block}", direction)


def dictionary_of(*directions: Tensor, n_more: int = 5, seed: int = 0) -> Folded:
    """Latents that read and write the given directions, then random ones."""
    more = torch.randn(n_more, D_MODEL, generator=torch.Generator().manual_seed(seed))
    rows = torch.nn.functional.normalize(torch.cat([torch.stack(directions), more]), dim=1)
    n = len(rows)
    return Folded(rows, torch.zeros(n), rows.clone(), torch.zeros(D_MODEL), torch.full((n,), 1e-3))


def random_dictionary(n_latents: int = 12, *, threshold: float = 0.02, seed: int = 0) -> Folded:
    """Unrelated encoder and decoder rows, so that a swap of the two shows; about half of the latents fire."""
    generator = torch.Generator().manual_seed(seed)
    W_enc, W_dec = (torch.randn(n_latents, D_MODEL, generator=generator) for _ in range(2))
    bias = 0.05 * torch.randn(n_latents, generator=generator)
    return Folded(W_enc, bias, W_dec, torch.zeros(D_MODEL), torch.full((n_latents,), threshold))
