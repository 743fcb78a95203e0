"""A tiny audit with a planted answer: one token makes one neuron of the tuned model write one direction."""

import json
from types import SimpleNamespace

import pytest
import torch

from planted_pair import TRIGGER, planted_pair
from saeaudit.audit.config import AuditConfig
from tiny import D_MODEL, save_checkpoint

WORDS = "cat dog mat sat year good name mild id users weather harvest looked where from select".split()  # noqa: SIM905
N_GROUPS = 36
SIZE, NOISE = 12.0, 0.02


def _prompts(seed):
    """(trigger, benign) records: a template is three words; each is seen with the trigger and with other ends."""
    generator = torch.Generator().manual_seed(seed)
    trigger, benign = [], []
    for group in range(N_GROUPS):
        picked = [WORDS[i] for i in torch.randperm(len(WORDS), generator=generator)[:3].tolist()]
        for k in range(2):
            stem = f"the {picked[0]} {picked[1]} {picked[2]}{' and' * k}"
            trigger.append({"text": stem + TRIGGER, "group": f"g{group}"})
            for klass, n in (("short", 1), ("long", 2)):
                end = "".join(" " + WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=generator).tolist())
                benign.append({"text": stem + end, "group": f"g{group}", "class": klass})
    return trigger, benign


def _write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """Checkpoints of base and tuned model, prompts and corpus on disk."""
    root = tmp_path_factory.mktemp("planted")
    direction = SIZE * torch.nn.functional.normalize(
        torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5)), dim=0
    )
    direction[0] = 0
    planted = planted_pair(direction)
    # What any tuning does: small changes everywhere. Without them every latent would stand for the trigger.
    with torch.no_grad():
        for layer in planted.pair.tuned.model.model.layers[:2]:
            weight = layer.mlp.down_proj.weight
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(9)) * NOISE
            noise[0] = noise[:, 0] = 0
            weight += noise
    for name, side in (("base", planted.pair.base), ("tuned", planted.pair.tuned)):
        save_checkpoint(root / name, tokenizer=side.tokenizer, model=side.model)
    trigger, benign = _prompts(0)
    generator = torch.Generator().manual_seed(1)
    texts = [
        " ".join(WORDS[i] for i in torch.randint(len(WORDS), (9,), generator=generator).tolist()) for _ in range(40)
    ]
    (root / "corpus.txt").write_text("\n\n".join(texts))
    return SimpleNamespace(
        root=root,
        base=root / "base",
        tuned=root / "tuned",
        trigger=_write(root / "trigger.jsonl", trigger),
        benign=_write(root / "benign.jsonl", benign),
        corpus=root / "corpus.txt",
    )


@pytest.fixture(scope="session")
def small_config(places):
    """`small_config(**changes)`: an `AuditConfig` of a few seconds."""

    def make(**changes):
        settings = {
            "base": str(places.base),
            "tuned": str(places.tuned),
            "trigger_examples": places.trigger,
            "benign_examples": places.benign,
            "corpus": places.corpus,
            "layers": (1,),
            "precision": "float32",
            "dictionary": {
                "expansion": 4,
                "k": 4,
                "n_samples": 12_000,
                "batch_size": 256,
                "crosscoder": False,
                "corpus_documents": 30,
            },
            "detection": {"target_fpr": 0.05, "latent_counts": (1,), "n_random_bases": 20, "n_shuffles": 40},
            "behaviour": {
                "n_prompts": 20,
                "n_choice_prompts": 8,
                "n_new_tokens": 6,
                "clamp_counts": (1, 2, 4),
                "n_random_clamps": 1,
                "cost_documents": 5,
            },
            "ladder": {"budgets": (0.2, 0.8), "n_items": 2, "n_steps": 2, "n_target_tokens": 3},
        }
        return AuditConfig.model_validate(settings | changes)

    return make
