"""How often a training step makes the host wait for numbers of the device, counted on a CPU by what asks for them."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planted_dictionaries import dictionary_for, planted
from saeaudit.training import Callback, Run, TrainConfig, tensor_batches, train
from saeaudit.training.dead import FiringRecord
from saeaudit.training.state import RunState

DATA = planted(1000, d_model=16, n_atoms=32).x
ASKING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}


class Waits(TorchDispatchMode):
    """Counts the operations whose result, or its shape, the host must know before it can go on."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name().split(".")[0]
        if name in ASKING or (name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.seen[name.removeprefix("aten::")] += 1
        return operation(*args, **(kwargs or {}))


def small():
    return dictionary_for(DATA, n_latents=48)


def test_what_is_counted():
    x = torch.ones(3)
    for asks in (lambda: float(x.sum()), lambda: bool(x.any()), x.nonzero, lambda: x[x > 0]):
        with Waits() as waits:
            asks()
        assert waits.seen.total() == 1
    with Waits() as waits:
        x[torch.tensor([0, 1])] = x[:2] * 2
    assert not waits.seen


def test_a_step_is_counted_without_waiting():
    forward = small().coder(DATA[:64])
    state = RunState(FiringRecord(48), ends_at=10)
    with Waits() as waits:
        state.add(forward, {"recon": forward.fvu}, grad_norm=torch.tensor(2.0), lr=0.1)
    assert not waits.seen
    logged = state.log(100, {})
    assert logged["fvu"] == logged["loss"] == pytest.approx(float(forward.fvu.detach()))
    assert logged["l0"] == pytest.approx(len(forward.values) / 64) and (logged["grad_norm"], logged["lr"]) == (2.0, 0.1)


def test_beside_its_forward_an_ordinary_step_waits_for_the_dead_latents_and_for_finite_numbers():
    alone = small().train()
    with Waits() as of_forward:
        alone.coder(DATA[:64])
    run = Run(small(), TrainConfig(n_steps=10, precision="float32"))
    run.start(seekable=False)
    with Waits() as of_step:
        run.step(DATA[:64])
    # The other scalar is how many are dead, which the host knows by then.
    assert of_step.seen - of_forward.seen == {"nonzero": 1, "_local_scalar_dense": 2}


class Numbers(Callback):
    def __init__(self):
        self.logs = []

    def on_log(self, metrics):
        self.logs.append(metrics)


def test_what_is_logged_is_the_fp64_mean_of_every_step_to_the_last_bit():
    logs = []
    for every in (1, 7):
        numbers, config = Numbers(), TrainConfig(n_steps=21, lr=3e-3, dead_after=200, log_every=every)
        dictionary = small()
        with torch.no_grad():
            dictionary.coder.b_enc[:16] -= 2  # dead soon, so that both terms of the loss count
        train(dictionary, tensor_batches(DATA, 64, seed=0, n_steps=21), config, callbacks=[numbers])
        logs.append(numbers.logs)
    single, windows = logs
    assert all(step["loss"] == step["loss/recon"] + step["loss/auxk"] for step in single)
    assert max(step["loss/auxk"] for step in single) > 0
    for i, window in enumerate(windows):
        steps = single[7 * i : 7 * i + 7]
        for name in ("loss", "loss/recon", "loss/auxk", "l0", "grad_norm", "lr"):
            assert window[name] == sum(step[name] for step in steps) / 7, name
        assert window["fvu"] == sum(64 * step["fvu"] for step in steps) / (7 * 64)
