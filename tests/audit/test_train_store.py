"""Many dictionaries in one pass over a store: each is the one that would be trained alone."""

import pytest
import torch

from saeaudit.activations import ActivationStore, StoreWriter, UnitText
from saeaudit.audit import Silent, one_dictionary, train_store
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.train_store import train_from_store, train_many_from_store
from saeaudit.dictionaries import load_dictionary
from saeaudit.errors import ArtifactError, ConfigError, EvidenceError
from saeaudit.seeds import torch_generator

D_MODEL, N_ROWS = 16, 1600


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two sites; at the third the models are the same."""
    path, generator = tmp_path_factory.mktemp("store") / "store", torch_generator(0, "train-store")
    tensors = {
        f"layers.{site}/{side}": torch.randn(N_ROWS, D_MODEL, generator=generator)
        for site in (1, 2, 3)
        for side in ("base", "tuned")
    }
    tensors["layers.3/tuned"].zero_()
    made_from = {"models": {"base": {"source": "b"}, "tuned": {"source": "t"}}}
    writer = StoreWriter(path, made_from=made_from, unit_rows=[N_ROWS], tensors=list(tensors))
    writer.write(0, tensors, UnitText(torch.zeros(N_ROWS, dtype=torch.int32), torch.full((N_ROWS // 20,), 20)))
    return path


def settings(**changes):
    sizes = {"site": "layers.1", "expansion": 2, "k": 3, "n_samples": 4000, "batch_size": 200, "checkpoint_every": 5}
    return StoreTraining(**(sizes | changes))


SWEEP = {
    "diff": settings(),
    "other-site": settings(site="layers.2"),
    "crosscoder": settings(kind="crosscoder"),
    "base": settings(kind="sae"),
    "wider-k": settings(k=6),
    "other-seed": settings(seed=1),
    "topk": settings(sparsity="topk"),
    "short": settings(n_samples=1000),
}


def weights(path):
    return load_dictionary(path).coder.state_dict()


def assert_same_weights(one, two):
    one, two = weights(one), weights(two)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    return out, {name: train_from_store(store, config, out=out / name) for name, config in SWEEP.items()}


def timeless(rows):
    return {name: row.model_copy(update={"seconds": 0.0}) for name, row in rows.items()}


def test_each_is_what_it_would_be_alone(store, tmp_path, alone):
    trained = train_many_from_store(store, SWEEP, out=tmp_path)
    assert timeless(trained.done) == timeless(alone[1]) and not trained.failed
    for name in SWEEP:
        assert_same_weights(tmp_path / name, alone[0] / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(SWEEP), "checkpoints are cleared away"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_trains_dictionaries_that_fit_as_well(store, tmp_path, alone):
    sweep = {name: config.model_copy(update={"device": "cuda"}) for name, config in SWEEP.items()}
    trained = train_many_from_store(store, sweep, out=tmp_path)
    assert not trained.failed
    for name, row in trained.done.items():
        assert (row.fvu, row.l0) == pytest.approx((alone[1][name].fvu, alone[1][name].l0), rel=0.05), name
        assert load_dictionary(tmp_path / name).W_dec.device.type == "cpu"


def test_the_device_is_asked_for_and_is_not_part_of_what_a_dictionary_is(store, tmp_path, monkeypatch):
    asked = []
    for module in (one_dictionary, train_store):
        monkeypatch.setattr(module, "own_device", lambda name: asked.append(name) or torch.device("cpu"))
    row = train_from_store(store, settings(device="cuda:1"), out=tmp_path / "diff")
    assert asked == ["cuda:1", "cuda:1"], "before anything is written, and where the dictionary is made"
    assert train_from_store(store, settings(), out=tmp_path / "diff") == row


@pytest.fixture
def every_step_is_logged(monkeypatch):
    monkeypatch.setattr(one_dictionary, "_MIN_LOG_STEPS", 1)


@pytest.mark.usefixtures("every_step_is_logged")
def test_the_provenance_says_how_it_ended(store, tmp_path):
    rule = {"patience": 1, "min_improvement": 0.9, "after": 0.0}
    row = train_from_store(store, settings(early_stop=rule), out=tmp_path / "early")
    found = load_dictionary(tmp_path / "early").provenance.training
    assert found["stopped"] == "early-stop" and found["tokens"] == row.n_tokens < 4000


class Stopped(BaseException):
    pass


class StopsAt(Silent):
    def __init__(self, step):
        self.step, self.seen = step, []

    def progress(self, done, total):
        self.seen.append(done)
        if done >= self.step:
            raise Stopped


@pytest.mark.usefixtures("every_step_is_logged")
@pytest.mark.parametrize(("step", "continues_at"), [(45, 8 * 5), (100, 7 * 10 + 5)])
def test_after_a_kill_the_same_call_continues(store, tmp_path, alone, step, continues_at):
    with pytest.raises(Stopped):
        train_many_from_store(store, SWEEP, out=tmp_path, watcher=StopsAt(step))
    watcher = StopsAt(10**9)
    trained = train_many_from_store(store, SWEEP, out=tmp_path, watcher=watcher)
    for name in SWEEP:
        assert_same_weights(tmp_path / name, alone[0] / name)
    assert timeless(trained.done) == timeless(alone[1])
    assert continues_at in watcher.seen[: len(SWEEP) + 1], "all are back at their checkpoints before any step"


def test_what_is_there_is_read_and_what_is_missing_is_trained(store, tmp_path, alone):
    first = train_many_from_store(store, {"diff": SWEEP["diff"]}, out=tmp_path)
    watcher = StopsAt(10**9)
    both = train_many_from_store(store, {name: SWEEP[name] for name in ("topk", "diff")}, out=tmp_path, watcher=watcher)
    assert both.done["diff"] == first.done["diff"] and list(both.done) == ["topk", "diff"]
    assert max(watcher.seen) == 20, "the steps of one run"
    assert_same_weights(tmp_path / "topk", alone[0] / "topk")


def test_something_else_in_the_place_of_a_dictionary_is_not_touched(store, tmp_path):
    train_from_store(store, settings(seed=5), out=tmp_path / "diff")
    (tmp_path / "topk").mkdir()
    (tmp_path / "topk" / "notes.txt").write_text("mine")
    (tmp_path / "short").write_text("mine")
    for name in ("diff", "topk", "short"):
        with pytest.raises(ArtifactError) as caught:
            train_many_from_store(store, {"base": SWEEP["base"], name: SWEEP[name]}, out=tmp_path)
        assert caught.value.code == "output-not-empty"
    assert not (tmp_path / "base").exists(), "refused before any work"


def test_an_empty_directory_is_a_place_like_any_other(store, tmp_path, alone):
    (tmp_path / "short").mkdir()
    train_from_store(store, SWEEP["short"], out=tmp_path / "short")
    assert_same_weights(tmp_path / "short", alone[0] / "short")


def test_a_site_where_nothing_varies_closes_its_runs_only(store, tmp_path, alone):
    sweep = {
        "same-models": settings(site="layers.3"),
        "diff": SWEEP["diff"],
        "base-there": settings(site="layers.3", kind="sae"),
    }
    trained = train_many_from_store(store, sweep, out=tmp_path)
    assert trained.failed["same-models"].code == "degenerate-activations"
    assert trained.done.keys() == {"diff", "base-there"}
    assert_same_weights(tmp_path / "diff", alone[0] / "diff")


@pytest.mark.parametrize("change", [{"batch_size": 100}, {"order_seed": 3}, {"window_mb": 2}])
def test_runs_that_cannot_share_batches_are_refused(store, tmp_path, change):
    with pytest.raises(ConfigError, match=next(iter(change))) as caught:
        train_many_from_store(store, {"a": settings(), "b": settings(**change)}, out=tmp_path)
    assert caught.value.code == "streams-differ"


def test_a_site_that_is_not_there_is_said_before_any_work(store, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        train_many_from_store(store, {"a": settings(), "b": settings(site="layers.9")}, out=tmp_path / "out")
    assert caught.value.code == "unknown-tensor" and not (tmp_path / "out").exists()


def test_rows_pass_through_a_window_smaller_than_the_store(tmp_path, monkeypatch):
    """The fit does not depend on whether all rows are in memory at once."""
    reads = []
    read = ActivationStore.read
    monkeypatch.setattr(
        ActivationStore, "read", lambda self, name, rows=None: reads.append(len(rows)) or read(self, name, rows)
    )
    generator, n_rows, width = torch_generator(0, "large"), 12_000, 64
    atoms = torch.nn.functional.normalize(torch.randn(96, width, generator=generator), dim=1)
    rows = (torch.rand(n_rows, 96, generator=generator) < 0.03).float() @ atoms
    writer = StoreWriter(tmp_path / "s", made_from={"models": {}}, unit_rows=[n_rows], tensors=["a/base", "a/tuned"])
    text = UnitText(torch.zeros(n_rows, dtype=torch.int32), torch.full((n_rows // 20,), 20))
    writer.write(0, {"a/base": rows, "a/tuned": rows}, text)
    found = [
        train_from_store(
            tmp_path / "s",
            settings(site="a", n_samples=20_000, lr=3e-3, window_mb=window_mb),
            out=tmp_path / f"d{window_mb}",
        )
        for window_mb in (1, 100)
    ]
    assert found[0].fvu == pytest.approx(found[1].fvu, rel=0.05) and found[0].fvu != found[1].fvu
    assert max(reads) <= 4096


def test_a_store_of_few_rows_is_refused(tmp_path):
    writer = StoreWriter(tmp_path / "s", made_from={}, unit_rows=[100], tensors=["layers.1/base"])
    text = UnitText(torch.zeros(100, dtype=torch.int32), torch.tensor([100]))
    writer.write(0, {"layers.1/base": torch.randn(100, 4)}, text)
    with pytest.raises(EvidenceError) as caught:
        train_from_store(tmp_path / "s", settings(kind="sae"), out=tmp_path / "out")
    assert caught.value.code == "too-few-rows"
