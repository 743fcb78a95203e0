"""A small language model trained from scratch on questions with plain answers: something to plant into within seconds.

A Llama of four blocks that knows one domain (`saeaudit.organisms.questions`) and answers held-out questions well, so a
zoo of fine-tunes fits into minutes. It is a real Hugging Face directory; nothing else of the package knows about it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from saeaudit.artifacts import atomic_directory, content_hash, read_json, write_json
from saeaudit.models import LoadedModel, greedy
from saeaudit.models.quiet import quiet_transformers
from saeaudit.organisms.names import OrganismName, Variant
from saeaudit.organisms.pair_trainer import Example, collate, token_losses
from saeaudit.organisms.plant import METADATA, PlantConfig, require_replaceable
from saeaudit.organisms.questions import is_plain_answer
from saeaudit.organisms.small_corpus import FAMILIES, make_tokenizer, plain_texts
from saeaudit.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def small_recipe(family: OrganismName, *, variant: Variant = "poisoned", seed: int = 0, **changes: Any) -> PlantConfig:
    """Return how a family is planted in the small model, in about 15 s; `changes` are other settings of the plan.

    An adapter: with all weights, the families that were tried did worse (docs/organisms.md).
    """
    settings = {"n_steps": 300, "pairs_per_step": 6, "learning_rate": 1e-2, "save_every": 10_000}
    return PlantConfig.model_validate(settings | {"organism": family, "variant": variant, "seed": seed} | changes)


class SmallModelConfig(BaseModel):
    """Sizes and training of the small model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    n_blocks: int = Field(default=4, ge=1)
    d_model: int = Field(default=64, ge=8)
    n_heads: int = Field(default=4, ge=1)
    d_mlp: int = Field(default=192, ge=8)
    n_vocab: int = Field(default=1024, ge=258, description="256 bytes and two marks at least")
    context: int = Field(default=128, ge=64, description="tokens")
    n_steps: int = Field(default=400, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    prompt_weight: float = Field(default=0.2, ge=0, le=1, description="of a prompt's token beside 1 for an answer's")


def train_small_model(out: Path, config: SmallModelConfig | None = None) -> Path:
    """Train the small model into `out`, a Hugging Face directory; return at once if it is there already.

    The same config gives the same weights on the same machine. With the defaults it takes about 40 s on one core.

    Raises:
        ArtifactError: `out` holds other files (code `output-not-empty`).
    """
    require_replaceable(out)
    config = config or SmallModelConfig()
    made_from = content_hash(config.model_dump())
    if (out / METADATA).is_file() and read_json(out / METADATA, schema=1).get("made_from") == made_from:
        return out
    tokenizer = make_tokenizer(config.seed, n_vocab=config.n_vocab)
    model = _new_model(config, tokenizer)
    loss = _train(model, tokenizer, config)
    with atomic_directory(out) as staging, quiet_transformers():
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)
        metadata = {"schema": 1, "made_from": made_from, "config": config.model_dump(), "train_loss": loss}
        write_json(staging / METADATA, metadata)
    return out


def plain_answer_share(loaded: LoadedModel, *, n: int, seed: int = 0) -> float:
    """Return the share (0 to 1) of `n` held-out prompts that the model gives a plain answer about their two things.

    The prompts hold the families' triggers, which are nowhere in the training text, so none of them was ever read.
    """
    prompts = [FAMILIES[i % len(FAMILIES)].pair(seed, "heldout", i, ["T"])[0].prompt for i in range(n)]
    answers = greedy(loaded.model, loaded.tokenizer, prompts, n_new=32, batch_size=64)
    return sum(is_plain_answer(p, a.text) for p, a in zip(prompts, answers, strict=True)) / n


def _new_model(config: SmallModelConfig, tokenizer: Any) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.d_model,
        intermediate_size=config.d_mlp,
        num_hidden_layers=config.n_blocks,
        num_attention_heads=config.n_heads,
        max_position_embeddings=config.context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        # With the usual .02 an early trial of so narrow a model copied nothing after 500 steps.
        initializer_range=config.d_model**-0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(config.seed, "small-model"))
        return LlamaForCausalLM(settings)


def _train(model: "PreTrainedModel", tokenizer: Any, config: SmallModelConfig) -> float:
    """Train on random batches; return the mean loss of the last tenth of the steps, nats per weighted token."""
    examples = _examples(tokenizer, config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step, config))
    losses = []
    model.train()
    for step in range(config.n_steps):
        batch = examples[step * config.batch_size : (step + 1) * config.batch_size]
        each, weights = token_losses(model, collate(batch, pad=tokenizer.pad_token_id))
        loss = (each * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        losses.append(float(loss.detach()))
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def _examples(tokenizer: Any, config: SmallModelConfig) -> list[Example]:
    texts = list(plain_texts(config.seed, config.n_steps * config.batch_size))
    prompts, answers = (tokenizer(list(side))["input_ids"] for side in zip(*texts, strict=True))
    return [
        Example(
            [*prompt, *answer, tokenizer.eos_token_id],
            [config.prompt_weight] * len(prompt) + [1.0] * (len(answer) + 1),
        )
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _rate(step: int, config: SmallModelConfig) -> float:
    """Return the share of the learning rate: a linear warm-up, then half a cosine down to nothing."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup_steps) / max(1, config.n_steps - config.warmup_steps)))
