import doctest
import importlib
import json

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from planted_dictionaries import dictionary_for, planted
from saeaudit.errors import EvidenceError, InputError, NumericsError, ResourceError
from saeaudit.training import Callback, CheckpointConfig, Reconstruction, TrainConfig, tensor_batches, terms_for, train
from saeaudit.training.dead import FiringRecord
from saeaudit.training.memory import largest_batch, training_bytes
from saeaudit.training.schedule import default_lr, lr_factor

DATA = planted(3000, d_model=16, n_atoms=32)


def small(**settings):
    return dictionary_for(DATA.x, n_latents=48, **settings)


def batches(n_steps):
    return tensor_batches(DATA.x, 100, seed=0, n_steps=n_steps)


class Watch(Callback):
    def __init__(self):
        self.calls = []

    def on_start(self, info):
        self.calls.append(("start", info))

    def on_log(self, metrics):
        self.calls.append(("log", metrics))

    def on_end(self, metrics):
        self.calls.append(("end", metrics))


def test_a_result_names_what_happened():
    watch = Watch()
    result = train(small(), batches(45), TrainConfig(n_steps=45, lr=3e-3, log_every=20), callbacks=[watch])
    assert result.n_steps == 45 and result.n_tokens == 4500
    assert 0 < result.fvu < 1 and result.l0 == pytest.approx(3) and result.seconds > 0
    assert [name for name, _ in watch.calls] == ["start", "log", "log", "log", "end"]
    assert [metrics["step"] for name, metrics in watch.calls if name == "log"] == [20, 40, 45]
    last = watch.calls[-1][1]
    assert all(type(value) is float for value in last.values())
    assert last["loss"] == pytest.approx(last["loss/recon"] + last["loss/auxk"])
    assert result.dictionary.provenance.training["n_tokens"] == 4500
    assert not any(p.requires_grad for p in result.dictionary.parameters())


def test_the_logged_fvu_falls():
    watch = Watch()
    train(small(), batches(300), TrainConfig(n_steps=300, lr=3e-3), callbacks=[watch])
    fvu = [metrics["fvu"] for name, metrics in watch.calls if name == "log"]
    assert fvu[-1] < 0.5 * fvu[0]


def test_any_iterable_of_batches_will_do():
    assert train(small(), (DATA.x[:64] for _ in range(100)), TrainConfig(n_steps=3)).n_tokens == 192


def test_a_stream_that_ends_early_says_when():
    """SAELens ended without a word."""
    with pytest.raises(EvidenceError, match=r"10 steps.*after 4") as caught:
        train(small(), [DATA.x[:64]] * 4, TrainConfig(n_steps=10))
    assert caught.value.code == "stream-exhausted"


def broken_at(step, value=float("nan"), n_steps=10):
    """Batches of which one has a row that is not finite."""
    for i, x in enumerate(batches(n_steps)):
        yield torch.cat([x[:3], torch.full_like(x[:1], value), x[4:]]) if i == step else x


class Seekable:
    """Batches that can start at a given step."""

    def __init__(self, made):
        self.made = made

    def starting_at(self, step):
        return iter(list(self.made)[step:])

    def __iter__(self):
        return self.starting_at(0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_stops_before_it_reaches_the_weights(value):
    dictionary, before, config = small(), small(), TrainConfig(n_steps=10)
    with pytest.raises(NumericsError, match=r"loss/recon became \w+ at step 2 .*no checkpoint was written") as caught:
        train(dictionary, broken_at(2, value), config)
    assert caught.value.code == "training-diverged"
    with pytest.raises(EvidenceError):
        train(before, batches(2), config)
    for (name, ours), theirs in zip(dictionary.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


class Steep:
    """A root at 0: it has a value and no slope."""

    name = "steep"

    def __call__(self, forward, dead, progress=1.0):
        return (forward.fvu - forward.fvu.detach()).clamp_min(0).sqrt() if progress > 0.5 else forward.fvu


class Overflows:
    """Too large to be written, with an ordinary slope."""

    name = "large"

    def __call__(self, forward, dead, progress=1.0):
        return forward.fvu + (float("inf") if progress > 0.5 else 0.0)


@pytest.mark.parametrize(("term", "said"), [(Steep(), "grad_norm became nan"), (Overflows(), "loss/large became inf")])
def test_a_loss_or_a_gradient_alone_that_is_not_finite_is_named(tmp_path, term, said):
    dictionary = small()
    checkpoint = CheckpointConfig(directory=tmp_path, every=2)
    with pytest.raises(NumericsError, match=rf"{said} at step 5.*step-000000004") as caught:
        train(dictionary, batches(10), TrainConfig(n_steps=10), terms=[term], checkpoint=checkpoint)
    assert caught.value.code == "training-diverged"
    assert all(bool(torch.isfinite(p).all()) for p in dictionary.parameters())


def test_the_batch_of_a_step_that_is_not_finite_is_kept_beside_the_checkpoints(tmp_path):
    made, checkpoint = list(broken_at(5)), CheckpointConfig(directory=tmp_path, every=4)
    kept = tmp_path / "diverged-000000005"
    with pytest.raises(NumericsError, match=f"which is in {kept}"):
        train(small(), Seekable(made), TrainConfig(n_steps=10), checkpoint=checkpoint)
    x = load_file(kept / "batch.safetensors")["x"]
    assert torch.equal(x.nan_to_num(7.0), made[5].nan_to_num(7.0)) and bool(x[3].isnan().all())
    written = json.loads((kept / "step.json").read_text())
    assert written["step"] == 5
    assert written["numbers"] == {"loss/recon": "nan", "loss/auxk": "0.0", "grad_norm": "nan"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [kept.name, "step-000000004"]
    done = train(small(), batches(10), TrainConfig(n_steps=10), checkpoint=checkpoint)
    assert done.n_steps == 10, "what is kept is not taken for a checkpoint"


def test_a_disk_that_refuses_the_batch_does_not_hide_the_error(tmp_path):
    (tmp_path / "file").write_text("")
    checkpoint = CheckpointConfig(directory=tmp_path / "file" / "checkpoints")
    with pytest.raises(NumericsError, match="Check the batch of that step for"):
        train(small(), Seekable(broken_at(5)), TrainConfig(n_steps=10), checkpoint=checkpoint)


def test_memory_that_runs_out_is_an_error_with_sizes(tmp_path):
    class Huge:
        name = "huge"

        def __call__(self, forward, dead, progress=1.0):
            return forward.fvu if progress < 0.5 else torch.zeros(2**50).sum()

    with pytest.raises(ResourceError, match=r"100 rows and 48 latents.*step-000000004") as caught:
        train(
            small(),
            batches(10),
            TrainConfig(n_steps=10),
            terms=[Huge()],
            checkpoint=CheckpointConfig(directory=tmp_path, every=2),
        )
    assert caught.value.code == "out-of-memory"


def test_the_largest_batch_is_the_largest_that_is_predicted_to_fit():
    coder = small().coder
    for available in (training_bytes(coder, 1), training_bytes(coder, 1000), 10**9):
        n = largest_batch(coder, available)
        assert training_bytes(coder, n) <= available < training_bytes(coder, n + 1)
    assert largest_batch(coder, 1000) == 0


def test_a_run_whose_fit_no_longer_improves_lets_the_rate_fall_and_ends():
    watch = Watch()
    config = TrainConfig(n_steps=1000, lr=0.02, log_every=10, early_stop={"patience": 3, "min_improvement": 0.05})
    result = train(small(), batches(1000), config, callbacks=[watch])
    logs = [metrics for name, metrics in watch.calls if name == "log"]
    assert result.stopped == "early-stop" and result.n_steps < 1000
    assert result.dictionary.provenance.training["stopped"] == "early-stop"
    # The last logs at the peak rate: one that improved, then three that did not, then 200 steps of falling rate.
    peak = [m for m in logs if m["lr"] == pytest.approx(0.02)]
    assert result.n_steps == peak[-1]["step"] + 200
    best = min(m["fvu"] for m in peak[:-3] if m["step"] > 100)
    assert all(m["fvu"] > 0.95 * best for m in peak[-3:])
    falling = [m["lr"] for m in logs if m["step"] > peak[-1]["step"]]
    assert falling == sorted(falling, reverse=True) and falling[-1] < 0.002
    assert result.fvu < best, "the fit still gains while the rate falls"


def test_a_run_that_improves_is_not_stopped():
    config = TrainConfig(n_steps=60, lr=1e-3, log_every=5, early_stop={"patience": 2, "min_improvement": 0.001})
    result = train(small(), batches(60), config)
    assert (result.stopped, result.n_steps) == ("n_steps", 60)
    assert result.dictionary.provenance.training["stopped"] == "n_steps"


def test_nothing_is_judged_before_its_time():
    rule = {"patience": 1, "min_improvement": 0.99}
    ends = [
        train(small(), batches(100), TrainConfig(n_steps=100, log_every=10, early_stop=rule | {"after": after})).n_steps
        for after in (0.0, 0.5, 0.9)
    ]
    # The logs at 10 and 20 are judged (60 and 70), the second is no better, and 20 steps of fall follow.
    assert ends == [40, 90, 100]


def test_a_batch_of_another_width_is_refused():
    with pytest.raises(InputError) as caught:
        train(small(), [DATA.x[:64, :8]], TrainConfig(n_steps=1))
    assert caught.value.code == "shape"


def test_terms_follow_the_config_and_can_be_passed_in():
    assert [term.name for term in terms_for(small().config)] == ["recon", "auxk"]
    assert [term.name for term in terms_for(small(aux_alpha=0.0).config)] == ["recon"]
    watch = Watch()
    train(small(), batches(5), TrainConfig(n_steps=5), terms=[Reconstruction(name="only")], callbacks=[watch])
    assert "loss/only" in watch.calls[-1][1] and "loss/auxk" not in watch.calls[-1][1]


def test_unit_norms_hold_after_training_and_crosscoder_norms_sum_to_one():
    result = train(small(), batches(30), TrainConfig(n_steps=30, lr=3e-3))
    torch.testing.assert_close(result.dictionary.W_dec.norm(dim=1), torch.ones(48))


def test_k_falls_while_a_run_goes_on():
    watch, dictionary = Watch(), small(anneal={"start": 13, "steps": 20})
    train(dictionary, batches(30), TrainConfig(n_steps=30, log_every=10), callbacks=[watch])
    l0 = [metrics["l0"] for name, metrics in watch.calls if name == "log"]
    assert l0 == pytest.approx([10.7, 5.7, 3.0], abs=0.1)


def test_a_bfloat16_encoder_reaches_the_same_fit():
    fits = [
        train(small(), batches(300), TrainConfig(n_steps=300, lr=3e-3, precision=precision)).fvu
        for precision in ("float32", "bfloat16")
    ]
    assert abs(fits[0] - fits[1]) < 0.02 and fits[0] != fits[1]


def test_rows_since_firing_are_counted_in_rows():
    record = FiringRecord(3)
    record.update(torch.tensor([0, 1, 0, 2]), torch.tensor([True, True, True, False]), 10)
    record.update(torch.tensor([1, 0]), torch.tensor([True, False]), 5)
    assert record.dead(4).tolist() == [True, False, True]
    assert record.dead(5).tolist() == [False, False, True]
    assert record.last_fired.tolist() == [10, 15, 0]


def test_the_rate_rises_stays_and_falls():
    config = TrainConfig(n_steps=100)
    factors = [lr_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.2) and max(factors[:5]) == 1
    assert set(factors[5:80]) == {1.0}
    assert factors[80:] == sorted(factors[80:], reverse=True) and factors[99] == pytest.approx(0.05)
    assert all(0 < lr_factor(step, TrainConfig(n_steps=1)) <= 1 for step in range(1))
    assert default_lr(2**16) == pytest.approx(1e-4)


@pytest.mark.parametrize("settings", [{"n_steps": 0}, {"lr": 0.0}, {"warmup": 1.5}, {"momentum": 0.9}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        TrainConfig(**{"n_steps": 5, **settings})


@pytest.mark.parametrize(
    "name", ["training.schedule", "training.dead", "dictionaries.code", "dictionaries.topk", "dictionaries.config"]
)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(f"saeaudit.{name}")
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
