"""What watches a run: it is told everything, and changes nothing."""

import io
import json
import sys
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from planted_dictionaries import dictionary_for, planted
from saeaudit.errors import MissingExtra, NumericsError, ResourceError
from saeaudit.training import (
    Callback,
    CheckpointConfig,
    JsonLines,
    RichProgress,
    Run,
    TensorBoard,
    TrainConfig,
    progress_bars,
    tensor_batches,
    terms_for,
    train,
    train_many,
)

DATA = planted(1000, d_model=16, n_atoms=32).x
CONFIG = TrainConfig(n_steps=20, lr=3e-3, log_every=4)


def run(*callbacks, batches=None, checkpoint=None, config=CONFIG):
    batches = tensor_batches(DATA, 64, seed=0, n_steps=config.n_steps) if batches is None else batches
    return train(dictionary_for(DATA, n_latents=48), batches, config, callbacks=callbacks, checkpoint=checkpoint)


class Broken:
    """Batches that stop making sense at some step."""

    def __init__(self, step, error=None):
        self.step, self.error = step, error

    def starting_at(self, first):
        for i, x in enumerate(tensor_batches(DATA, 64, seed=0, n_steps=20).starting_at(first), first):
            if i == self.step and self.error:
                raise self.error
            yield x * float("nan") if i == self.step else x

    def __iter__(self):
        return self.starting_at(0)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def screen():
    bars = progress_bars()
    bars.live.console = Console(file=io.StringIO(), force_terminal=True, width=120)
    return bars


def drawn(bars):
    return bars.console.file.getvalue()


def test_nothing_changes_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    alone = run()
    with screen() as bars:
        watched = run(JsonLines(tmp_path / "log.jsonl"), TensorBoard(tmp_path / "board"), RichProgress("run", bars))
    for name, value in alone.dictionary.coder.state_dict().items():
        assert torch.equal(value, watched.dictionary.coder.state_dict()[name]), name
    assert (alone.fvu, alone.l0) == (watched.fvu, watched.l0)


class Numbers(Callback):
    def __init__(self):
        self.logs = []

    def on_log(self, metrics):
        self.logs.append(dict(metrics))


def test_json_lines_are_the_logs(tmp_path):
    numbers = Numbers()
    run(JsonLines(tmp_path / "logs" / "run.jsonl"), numbers)
    assert lines(tmp_path / "logs" / "run.jsonl") == numbers.logs
    assert [log["step"] for log in numbers.logs] == [4, 8, 12, 16, 20]


def test_json_lines_of_a_killed_run_go_on_without_gap_or_repetition(tmp_path):
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    run(JsonLines(whole))
    checkpoint = CheckpointConfig(directory=tmp_path / "checkpoints", every=6)
    with pytest.raises(KeyboardInterrupt):
        run(JsonLines(killed), batches=Broken(17, KeyboardInterrupt()), checkpoint=checkpoint)
    with killed.open("a") as stream:
        stream.write('{"step": 1')  # the process died while it wrote
    assert [log["step"] for log in map(json.loads, killed.read_text().splitlines()[:-1])] == [4, 8, 12, 16]
    run(JsonLines(killed), checkpoint=checkpoint)
    timeless = [[{k: v for k, v in log.items() if "second" not in k} for log in lines(p)] for p in (whole, killed)]
    assert timeless[0] == timeless[1]


def test_a_new_run_does_not_continue_the_lines_of_an_old_one(tmp_path):
    for _ in range(2):
        run(JsonLines(tmp_path / "run.jsonl"))
    assert len(lines(tmp_path / "run.jsonl")) == 5


def test_a_log_that_cannot_be_written_closes_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as caught:
        run(JsonLines(tmp_path / "file" / "run.jsonl"))
    assert caught.value.code == "not-writable"


def test_tensorboard_gets_every_number(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    numbers = Numbers()
    run(TensorBoard(tmp_path), numbers)
    found = EventAccumulator(str(tmp_path)).Reload()
    assert sorted(found.Tags()["scalars"]) == sorted(numbers.logs[0])
    for name in ("fvu", "loss/recon", "lr"):
        points = [(event.step, event.value) for event in found.Scalars(name)]
        assert points == [(log["step"], pytest.approx(log[name])) for log in numbers.logs]


def test_tensorboard_that_is_absent_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'saeaudit\[tensorboard\]'") as caught:
        TensorBoard(tmp_path)
    assert caught.value.code == "tensorboard-missing"


def test_the_line_of_a_run_says_speed_and_fit():
    with screen() as bars:
        result = run(RichProgress("layers.1", bars))
    text = drawn(bars)
    assert "layers.1" in text and "rows/s" in text and "20/20" in text
    assert f"FVU {result.fvu:.3f}" in text and f"L0 {result.l0:.1f}" in text and f"dead {result.dead_share:.1%}" in text


def test_runs_share_a_display_and_one_that_fails_says_why():
    with screen() as bars:
        runs = {
            name: Run(dictionary_for(DATA, n_latents=48), CONFIG, terms=terms, callbacks=[RichProgress(name, bars)])
            for name, terms in (("good", None), ("bad", [Diverges()]))
        }
        train_many(runs, tensor_batches(DATA, 64, seed=0, n_steps=20))
    text = drawn(bars)
    assert "good" in text and "20/20" in text
    assert "bad" in text and "training-diverged" in text


class Diverges:
    name = "diverges"

    def __call__(self, forward, dead, progress=1.0):
        return forward.fvu * (float("nan") if progress > 0.5 else 1.0)


@pytest.mark.parametrize(
    ("batches", "raises", "last_line"),
    [
        (None, None, "20/20"),
        (Broken(9), NumericsError, "training-diverged"),
        (Broken(9, KeyboardInterrupt()), KeyboardInterrupt, "KeyboardInterrupt"),
    ],
)
def test_a_display_of_its_own_lasts_as_long_as_the_run(batches, raises, last_line):
    progress = RichProgress()
    progress._bars = bars = screen()
    with pytest.raises(raises) if raises else nullcontext():
        run(progress, batches=batches)
    assert not bars.live.is_started and last_line in drawn(bars)


class Stored(Callback):
    """Reads each checkpoint when it is told of it."""

    def __init__(self):
        self.seen = []

    def on_log(self, metrics):
        self.seen.append(("log", metrics["step"]))

    def on_checkpoint(self, step, directory):
        state = json.loads((directory / "state.json").read_text())
        weights = load_file(directory / "tensors.safetensors")
        self.seen.append(("checkpoint", step, state["step"], "weight.W_enc" in weights, directory.name))


def test_a_callback_is_told_of_a_checkpoint_once_it_is_complete(tmp_path):
    stored = Stored()
    run(stored, checkpoint=CheckpointConfig(directory=tmp_path, every=8))
    assert [entry for entry in stored.seen if entry[0] == "checkpoint"] == [
        ("checkpoint", n, n, True, f"step-{n:09d}") for n in (8, 16, 20)
    ]
    assert [entry[0] for entry in stored.seen] == ["log", "log", "checkpoint"] * 2 + ["log", "checkpoint"]


def test_without_checkpoints_none_is_told_of():
    stored = Stored()
    run(stored)
    assert [entry[0] for entry in stored.seen] == ["log"] * 5


def trained(terms=None, *, log_every=1, n_steps=20, **settings):
    """The dictionary and the logs of a run in which some latents are dead from its third step on."""
    dictionary, numbers = dictionary_for(DATA, n_latents=48, **settings), Numbers()
    with torch.no_grad():
        dictionary.coder.b_enc[:16] -= 2
    config = TrainConfig(n_steps=n_steps, lr=3e-3, dead_after=100, log_every=log_every)
    batches = tensor_batches(DATA, 64, seed=0, n_steps=n_steps)
    train(dictionary, batches, config, terms=terms, callbacks=[numbers])
    return dictionary, numbers.logs


@dataclass(frozen=True)
class Scaled:
    name: str
    factor: float

    def __call__(self, forward, dead, progress=1.0):
        return self.factor * forward.fvu if self.factor else forward.target.new_zeros(())


def test_a_share_is_that_of_the_gradients_norm():
    _, logs = trained([Scaled("a", 3.0), Scaled("b", -1.0), Scaled("none", 0.0)])
    for log in logs:
        shares = [log[f"grad_share/{name}"] for name in ("a", "b", "none")]
        assert shares == pytest.approx([0.75, 0.25, 0.0])


@pytest.mark.parametrize("rule", ["relu", "gated"])
def test_shares_follow_from_the_norms_of_runs_with_one_term_each(rule):
    rule = {"sparsity": rule, "k": None}
    dictionary, logs = trained(n_steps=1, **rule)
    terms = terms_for(dictionary.config)
    norms = {term.name: trained([term], n_steps=1, **rule)[1][0]["grad_norm"] for term in terms}
    assert len(norms) > 1 and min(norms.values()) > 0
    for name, norm in norms.items():
        assert logs[0][f"grad_share/{name}"] == pytest.approx(norm / sum(norms.values()), rel=1e-5), name


def test_shares_do_not_change_the_weights_and_those_of_dead_latents_count():
    (often, logs), (seldom, _) = trained(log_every=1), trained(log_every=1000)
    assert [log["grad_share/auxk"] > 0 for log in logs[:4]] == [False, False, True, True]
    assert all(log["grad_share/recon"] + log["grad_share/auxk"] == pytest.approx(1) for log in logs)
    for name, value in often.coder.state_dict().items():
        assert torch.equal(value, seldom.coder.state_dict()[name]), name


def test_one_term_has_no_share():
    _, logs = trained(aux_alpha=0.0)
    assert not any(name.startswith("grad_share") for name in logs[0])
