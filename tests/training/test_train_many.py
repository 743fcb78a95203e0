"""Many runs on one stream: each ends as it would alone, whatever happens to the others."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from planted_dictionaries import dictionary_for, planted
from saeaudit.errors import ArtifactError
from saeaudit.training import Callback, CheckpointConfig, Run, TrainConfig, tensor_batches, train, train_many

DATA = planted(2000, d_model=16, n_atoms=32).x
INPUTS = {"one": DATA, "two": DATA.flip(1), "both": torch.stack([DATA, DATA.flip(1)], 1)}
CONFIG = TrainConfig(n_steps=24, lr=3e-3, log_every=5, dead_after=400)
# name -> (input, kind, settings of the dictionary, settings of the run)
RUNS = {
    "sae": ("one", "sae", {}, {}),
    "other-site": ("two", "sae", {}, {}),
    "other-seed": ("one", "sae", {"seed": 1}, {}),
    "wide-topk": ("one", "diff", {"sparsity": "topk", "n_latents": 60, "k": 5}, {}),
    "crosscoder": ("both", "crosscoder", {}, {}),
    "short": ("two", "diff", {"sparsity": "relu", "k": None}, {"n_steps": 11}),
    "stops": ("one", "sae", {}, {"early_stop": {"patience": 1, "min_improvement": 0.9, "after": 0}}),
}


class Stream:
    """All inputs of a step under their names; may end, break or change a batch at some step."""

    def __init__(self, n_steps=CONFIG.n_steps, *, breaks_at=None, error=None, poison=None):
        self.batches = {name: tensor_batches(x, 100, seed=1, n_steps=n_steps) for name, x in INPUTS.items()}
        self.breaks_at, self.error, self.poison = breaks_at, error, poison
        self.given = []

    def __iter__(self):
        return self.starting_at(0)

    def starting_at(self, step):
        streams = [batches.starting_at(step) for batches in self.batches.values()]
        for i, found in enumerate(zip(*streams, strict=True), step):
            if i == self.breaks_at:
                raise self.error
            batch = dict(zip(self.batches, found, strict=True))
            if self.poison and self.poison[1] == i:
                batch[self.poison[0]][3, ..., 2] = float("nan")
            self.given.append(i)
            yield batch


class Killed(BaseException):
    pass


class KilledAt(Callback):
    def __init__(self, step):
        self.step = step

    def on_log(self, metrics):
        if metrics["step"] >= self.step:
            raise Killed


class Endings(Callback):
    def __init__(self):
        self.seen = []

    def on_end(self, metrics):
        self.seen.append("end")

    def on_fail(self, error):
        self.seen.append(type(error).__name__)


def make(name, directory=None, *, callbacks=(), every=4, **changes):
    reads, kind, shape, settings = RUNS[name]
    dictionary = dictionary_for(INPUTS[reads], kind, **({"n_latents": 48} | shape))
    checkpoint = CheckpointConfig(directory=directory / name, every=every) if directory else None
    config = TrainConfig(**(CONFIG.model_dump() | settings | changes))
    return Run(dictionary, config, reads=reads, checkpoint=checkpoint, callbacks=callbacks)


def alone(name):
    run = make(name)
    return train(run.dictionary, tensor_batches(INPUTS[run.reads], 100, seed=1, n_steps=CONFIG.n_steps), run.config)


@pytest.fixture(scope="module")
def expected():
    return {name: alone(name) for name in RUNS}


def assert_same(found, expected):
    theirs = expected.dictionary.coder.state_dict()
    for key, value in found.dictionary.coder.state_dict().items():
        assert torch.equal(value, theirs[key]), key
    for field in ("fvu", "l0", "dead_share", "n_steps", "n_tokens", "stopped"):
        assert getattr(found, field) == getattr(expected, field)


def test_each_run_ends_as_it_would_alone(expected):
    ended = train_many({name: make(name) for name in RUNS}, Stream())
    assert ended.done.keys() == RUNS.keys() and not ended.failed
    for name, found in ended.done.items():
        assert_same(found, expected[name])
    lengths = {name: result.n_steps for name, result in ended.done.items()}
    assert lengths["short"] == 11 and lengths["stops"] < 24 == lengths["sae"]
    assert not torch.equal(ended.done["sae"].dictionary.W_dec, ended.done["other-seed"].dictionary.W_dec)


@pytest.mark.parametrize("step", [1, 4, 15])
def test_killed_between_two_steps_all_runs_continue(step, tmp_path, expected):
    with pytest.raises(Killed):
        train_many({name: make(name, tmp_path) for name in RUNS}, Stream(breaks_at=step, error=Killed()))
    stream = Stream()
    ended = train_many({name: make(name, tmp_path) for name in RUNS}, stream)
    assert stream.given[0] == step // 4 * 4
    for name, found in ended.done.items():
        assert_same(found, expected[name])


@pytest.mark.parametrize("victim", ["sae", "crosscoder"])
def test_killed_within_a_step_the_runs_are_at_different_steps_and_continue(victim, tmp_path, expected):
    """Some runs have written a checkpoint of the step and others have not."""
    runs = {name: make(name, tmp_path, every=5) for name in RUNS}
    runs[victim] = make(victim, tmp_path, every=5, callbacks=[KilledAt(10)])
    with pytest.raises(Killed):
        train_many(runs, Stream())
    ended = train_many({name: make(name, tmp_path, every=5) for name in RUNS}, Stream())
    assert ended.done.keys() == RUNS.keys()
    for name, found in ended.done.items():
        assert_same(found, expected[name])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
import test_train_many as cases

class KillsItself(cases.Callback):
    def on_log(self, metrics):
        if metrics["step"] == 10:
            os.kill(os.getpid(), signal.SIGKILL)

runs = {name: cases.make(name, Path(sys.argv[1]), every=5) for name in cases.RUNS}
runs["crosscoder"] = cases.make("crosscoder", Path(sys.argv[1]), every=5, callbacks=[KillsItself()])
cases.train_many(runs, cases.Stream())
"""


def test_a_process_that_is_killed_leaves_what_another_one_continues(tmp_path, expected):
    here = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, here, here.parent], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "sae" / "step-000000010").is_dir() and not (tmp_path / "crosscoder" / "step-000000010").exists()
    ended = train_many({name: make(name, tmp_path, every=5) for name in RUNS}, Stream())
    for name, found in ended.done.items():
        assert_same(found, expected[name])
    assert ended.done.keys() == RUNS.keys()


def test_a_run_that_diverges_is_closed_and_the_others_do_not_notice(expected, tmp_path):
    endings = Endings()
    runs = {name: make(name, tmp_path) for name in RUNS}
    runs["crosscoder"] = make("crosscoder", tmp_path, callbacks=[endings])
    ended = train_many(runs, Stream(poison=("both", 9)))
    assert ended.failed.keys() == {"crosscoder"} and endings.seen == ["NumericsError"]
    assert ended.failed["crosscoder"].code == "training-diverged"
    assert "step 9" in str(ended.failed["crosscoder"]) and "step-000000008" in str(ended.failed["crosscoder"])
    for name, found in ended.done.items():
        assert_same(found, expected[name])


def test_a_checkpoint_of_other_settings_closes_its_run_only(tmp_path):
    train_many({name: make(name, tmp_path) for name in ("sae", "short")}, Stream())
    ended = train_many({"sae": make("sae", tmp_path, lr=1e-3), "short": make("short", tmp_path)}, Stream())
    assert ended.failed["sae"].code == "resume-mismatch" and ended.done["short"].n_steps == 11


def test_a_stream_that_ends_closes_those_that_need_more(tmp_path):
    endings = {name: Endings() for name in ("sae", "short")}
    ended = train_many({name: make(name, callbacks=[endings[name]]) for name in endings}, Stream(n_steps=15))
    assert ended.failed["sae"].code == "stream-exhausted" and "after 15" in str(ended.failed["sae"])
    assert ended.done.keys() == {"short"}
    assert {name: ending.seen for name, ending in endings.items()} == {"sae": ["EvidenceError"], "short": ["end"]}


def test_a_stream_that_breaks_closes_those_that_need_more():
    broken = ArtifactError("unit 3 is gone", code="shard-missing")
    ended = train_many({name: make(name) for name in ("sae", "short")}, Stream(breaks_at=15, error=broken))
    assert ended.failed == {"sae": broken} and ended.done.keys() == {"short"}


def test_an_interruption_reaches_the_caller_and_every_callback():
    endings = [Endings(), Endings()]
    runs = {name: make(name, callbacks=[ending]) for name, ending in zip(("sae", "crosscoder"), endings, strict=True)}
    with pytest.raises(KeyboardInterrupt):
        train_many(runs, Stream(breaks_at=6, error=KeyboardInterrupt()))
    assert [ending.seen for ending in endings] == [["KeyboardInterrupt"]] * 2


def test_a_batch_is_read_once_and_no_further_than_needed():
    stream = Stream()
    train_many({name: make(name, n_steps=7) for name in ("sae", "other-seed", "crosscoder")}, stream)
    assert stream.given == list(range(7))


def test_plain_batches_go_to_every_run(expected):
    ended = train_many({name: make(name) for name in ("sae", "other-seed")}, Stream().batches["one"])
    for name, found in ended.done.items():
        assert_same(found, expected[name])


def test_an_input_that_is_not_in_the_batches_is_named():
    run = Run(dictionary_for(DATA, n_latents=48), CONFIG, reads="three")
    ended = train_many({"a": run}, Stream())
    assert ended.failed["a"].code == "unknown-input"
    assert "'three'" in str(ended.failed["a"]) and "'both'" in str(ended.failed["a"])
