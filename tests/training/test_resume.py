import json

import pytest
import torch
from safetensors.torch import load_file

from planted_dictionaries import dictionary_for, planted
from saeaudit.errors import ArtifactError, ConfigError
from saeaudit.training import Callback, CheckpointConfig, TrainConfig, tensor_batches, train

DATA = planted(3000, d_model=16, n_atoms=32)
CONFIG = TrainConfig(n_steps=40, lr=3e-3, log_every=7, dead_after=500)


class Log(Callback):
    """Keeps what it is told, apart from times."""

    def __init__(self, stop_at=None):
        self.logs, self.starts, self.ends, self.stop_at = [], [], [], stop_at

    def on_start(self, info):
        self.starts.append(dict(info))

    def on_log(self, metrics):
        self.logs.append({k: v for k, v in metrics.items() if "second" not in k})

    def on_end(self, metrics):
        self.ends.append(dict(metrics))


class Killed(BaseException):
    pass


def killed_after(batches, n):
    """Batches that can start anywhere, and kill the process in the middle of the step after `n`."""

    class Killing:
        def starting_at(self, step):
            for i, x in enumerate(batches.starting_at(step), step):
                if i == n:
                    raise Killed
                yield x

        def __iter__(self):
            return self.starting_at(0)

    return Killing()


def run(kind, checkpoint=None, *, config=CONFIG, kill=None, resume=True, log=None, seed=0, **settings):
    x = DATA.x if kind != "crosscoder" else torch.stack([DATA.x, DATA.x.flip(1)], 1)
    dictionary = dictionary_for(x, kind, n_latents=48, seed=seed, **settings)
    batches = tensor_batches(x, 128, seed=1, n_steps=config.n_steps)
    batches = batches if kill is None else killed_after(batches, kill)
    return train(dictionary, batches, config, callbacks=[log] if log else [], checkpoint=checkpoint, resume=resume)


def state_of(result):
    return result.dictionary.coder.state_dict()


def assert_bit_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


RANGES = [{"n_latents": 30, "k": 2, "layout": "shared"}, {"n_latents": 18, "k": 1, "layout": "tuned"}]
RUNS = {
    "sae": ("sae", {}),
    "diff": ("diff", {}),
    "crosscoder": ("crosscoder", {}),
    "topk": ("sae", {"sparsity": "topk", "anneal": {"start": 12, "steps": 30}}),
    "matryoshka": ("diff", {"sparsity": "matryoshka"}),
    "relu": ("crosscoder", {"sparsity": "relu", "k": None}),
    "gated": ("sae", {"sparsity": "gated", "k": None}),
    "jumprelu": ("diff", {"sparsity": "jumprelu", "k": None}),
    "layouts": ("crosscoder", {"crosscoder": {"ranges": RANGES}}),
    "tied": ("diff", {"sparsity": "relu", "k": None, "published": {"tied": "columns", "ghost": "diffsae"}}),
}


@pytest.mark.parametrize(("name", "kill"), [(name, 23) for name in RUNS] + [("sae", 10), ("crosscoder", 39)])
def test_a_killed_run_continues_bit_for_bit(name, kill, tmp_path):
    """dictionary_learning writes backups of training that nothing continues from."""
    kind, settings = RUNS[name]
    whole_log, rest_log = Log(), Log()
    whole = run(kind, CheckpointConfig(directory=tmp_path / "whole", every=9), log=whole_log, **settings)
    checkpoint = CheckpointConfig(directory=tmp_path / "killed", every=9)
    with pytest.raises(Killed):
        run(kind, checkpoint, kill=kill, **settings)
    rest = run(kind, checkpoint, log=rest_log, seed=99, **settings)  # a fresh object, even from another start
    assert rest_log.starts[0]["first_step"] == kill // 9 * 9
    assert_bit_equal(state_of(whole), state_of(rest))
    assert_bit_equal(
        *(load_file(tmp_path / name / "step-000000040" / "tensors.safetensors") for name in ("whole", "killed"))
    )
    assert rest_log.logs == whole_log.logs[-len(rest_log.logs) :]
    assert (rest.fvu, rest.l0, rest.dead_share, rest.n_tokens) == (
        whole.fvu,
        whole.l0,
        whole.dead_share,
        whole.n_tokens,
    )


def test_checkpoints_and_callbacks_do_not_change_the_numbers(tmp_path):
    alone = run("sae")
    watched = run("sae", CheckpointConfig(directory=tmp_path, every=3), log=Log())
    assert_bit_equal(state_of(alone), state_of(watched))


def test_another_seed_does_change_the_numbers():
    assert not torch.equal(state_of(run("sae"))["W_dec"], state_of(run("sae", seed=1))["W_dec"])


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run("sae", CheckpointConfig(directory=tmp_path, every=9, keep=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000036", "step-000000040"]


def test_a_finished_run_is_read_and_not_repeated(tmp_path):
    checkpoint = CheckpointConfig(directory=tmp_path)
    first = run("crosscoder", checkpoint)
    log = Log()
    again = run("crosscoder", checkpoint, log=log, seed=5)
    assert log.logs == [] and log.starts[0]["first_step"] == 40
    assert_bit_equal(state_of(first), state_of(again))
    assert (again.fvu, again.n_tokens) == (first.fvu, first.n_tokens)


def test_without_resume_a_run_starts_again_and_old_checkpoints_go(tmp_path):
    checkpoint = CheckpointConfig(directory=tmp_path, every=9)
    run("sae", checkpoint)
    with pytest.raises(Killed):
        run("sae", checkpoint, kill=10, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000009"]


def test_other_settings_are_named(tmp_path):
    checkpoint = CheckpointConfig(directory=tmp_path)
    run("sae", checkpoint)
    with pytest.raises(ArtifactError, match=r"train\.lr: 0\.003 then, 0\.001 now") as caught:
        run("sae", checkpoint, config=CONFIG.model_copy(update={"lr": 1e-3}))
    assert caught.value.code == "resume-mismatch"
    assert "n_steps" not in str(caught.value)


@pytest.mark.parametrize("damage", ["truncate", "schema"])
def test_a_broken_checkpoint_is_an_error_and_not_a_restart(tmp_path, damage):
    checkpoint = CheckpointConfig(directory=tmp_path)
    run("sae", checkpoint)
    path = tmp_path / "step-000000040"
    if damage == "truncate":
        tensors = path / "tensors.safetensors"
        tensors.write_bytes(tensors.read_bytes()[:-20])
    else:
        state = json.loads((path / "state.json").read_text())
        (path / "state.json").write_text(json.dumps(state | {"schema": 7}))
    with pytest.raises(ArtifactError) as caught:
        run("sae", checkpoint)
    assert caught.value.code == {"truncate": "artifact-broken", "schema": "schema-mismatch"}[damage]


def test_a_half_written_checkpoint_is_not_seen(tmp_path):
    (tmp_path / ".step-000000020.tmp-abc").mkdir()
    assert run("sae", CheckpointConfig(directory=tmp_path)).n_steps == 40


def test_batches_without_a_cursor_cannot_have_checkpoints(tmp_path):
    dictionary = dictionary_for(DATA.x, n_latents=48)
    with pytest.raises(ConfigError) as caught:
        train(dictionary, [DATA.x] * 40, CONFIG, checkpoint=CheckpointConfig(directory=tmp_path))
    assert caught.value.code == "batches-not-resumable"
