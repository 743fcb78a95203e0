"""Adam's first step moves every number that has a gradient by its rate: one step shows the rates."""

import pytest
import torch

from planted_dictionaries import dictionary_for, planted
from saeaudit.training import Run, TrainConfig

X = planted(256, d_model=16, n_atoms=32).x
PAIR = torch.stack([X, X.flip(1)], 1)
LR = 1e-5
LAYOUTS = {"ranges": [{"n_latents": 30, "layout": "shared"}, {"n_latents": 18, "layout": "tuned"}]}


def moved(kind, *, steps=1, settings=None, **config):
    """How far each parameter moved in the last of some steps, at most, in rates; without rows that are rescaled."""
    x = PAIR if kind == "crosscoder" else X
    dictionary = dictionary_for(x, kind, n_latents=48, **(settings or {}))
    run = Run(dictionary, TrainConfig(**({"n_steps": 10, "lr": LR, "warmup": 0.0} | config)))
    run.start(seekable=False)
    for _ in range(steps - 1):
        run.step(x)
    before = {name: parameter.detach().clone() for name, parameter in dictionary.coder.named_parameters()}
    run.step(x)
    after = {name: parameter.detach() for name, parameter in dictionary.coder.named_parameters()}
    return {name: float((after[name] - before[name]).abs().max()) / LR for name in before if name != "W_dec"}


CASES = [
    ("sae", {"sparsity": "relu", "k": None}, 4.0),
    ("diff", {"sparsity": "gated", "k": None}, 4.0),
    ("sae", {"sparsity": "jumprelu", "k": None}, 4.0),
    ("crosscoder", {"sparsity": "relu", "k": None}, 32**0.5),
    ("crosscoder", {"sparsity": "relu", "k": None, "crosscoder": LAYOUTS}, 32**0.5),
    ("sae", {}, 1.0),
    ("diff", {"sparsity": "topk"}, 1.0),
    ("sae", {"sparsity": "matryoshka"}, 1.0),
    ("crosscoder", {}, 1.0),
]


@pytest.mark.parametrize(("kind", "settings", "factor"), CASES)
def test_biases_learn_faster_under_a_penalty(kind, settings, factor):
    sizes = moved(kind, settings=settings)
    assert {name.split(".")[-1] for name in sizes} >= {"b_enc", "b_dec"}
    for name, size in sizes.items():
        bias = name.split(".")[-1].startswith("b_")
        assert size == pytest.approx(factor if bias else 1.0, rel=0.1), name


def test_the_factor_can_be_chosen_and_the_schedule_multiplies_both_rates():
    falling = moved("sae", steps=10, bias_lr_factor=4.0, decay=1.0, betas=(0.0, 0.0))  # the rate ends at a tenth
    assert falling["b_dec"] == pytest.approx(0.4, rel=0.1) and falling["W_enc"] == pytest.approx(0.1, rel=0.1)
