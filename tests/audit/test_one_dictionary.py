"""One dictionary from a store: it finds what was planted, reads the right tensors, and never its held-out rows."""

import numpy as np
import pytest
import torch

from saeaudit.activations import ActivationStore, StoreWriter, UnitText
from saeaudit.audit import Silent
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.store_inputs import tensors_of
from saeaudit.audit.train_store import HELD_OUT_BATCH, Job, train_from_store, train_on_rows
from saeaudit.dictionaries import load_dictionary
from saeaudit.errors import ArtifactError, EvidenceError
from saeaudit.seeds import torch_generator
from saeaudit.training import Callback, calibrate

D_MODEL, N_FEATURES, N_ROWS = 16, 24, 1600


@pytest.fixture(scope="module")
def planted():
    """(base rows, differences): the difference is a sparse sum of fixed directions, the base is noise."""
    generator = torch_generator(0, "one-dictionary")
    directions = torch.nn.functional.normalize(torch.randn(N_FEATURES, D_MODEL, generator=generator), dim=1)
    active = torch.rand(N_ROWS, N_FEATURES, generator=generator) < 2 / N_FEATURES
    size = 1 + torch.rand(N_ROWS, N_FEATURES, generator=generator)
    return torch.randn(N_ROWS, D_MODEL, generator=generator), (active * size) @ directions


def write_store(path, base, delta, *, origin="planted"):
    names = ["layers.1/base", "layers.1/tuned"]
    made_from = {"models": {"base": {"source": "b"}, "tuned": {"source": "t"}}, "origin": origin}
    writer = StoreWriter(path, made_from=made_from, unit_rows=[len(base)], tensors=names)
    text = UnitText(
        torch.zeros(len(base), dtype=torch.int32), torch.tensor([20] * (len(base) // 20) + [len(base) % 20])
    )
    writer.write(0, {"layers.1/base": base, "layers.1/tuned": delta}, text)
    return path


def settings(**changes):
    sizes = {"site": "layers.1", "expansion": 4, "k": 3, "n_samples": 60_000, "batch_size": 200, "lr": 3e-3}
    return StoreTraining(**(sizes | changes))


def test_a_planted_difference_is_found(planted, tmp_path):
    store = write_store(tmp_path / "store", *planted)
    row = train_from_store(store, settings(), out=tmp_path / "diff")
    noise = train_from_store(store, settings(kind="sae"), out=tmp_path / "sae")
    assert row.fvu < 0.25
    assert noise.fvu > row.fvu + 0.2, "dense noise must not look as compressible as the planted sparse difference"
    dictionary = load_dictionary(tmp_path / "diff")
    assert dictionary.provenance.threshold_source == "calibrated"
    assert dictionary.provenance.training["distinct_tokens"] == N_ROWS - N_ROWS // 8
    assert sorted(p.name for p in tmp_path.iterdir()) == ["diff", "sae", "store"], "checkpoints are cleared away"


def test_the_same_seed_gives_the_same_weights(planted, tmp_path):
    store = write_store(tmp_path / "store", *planted)
    short = settings(n_samples=2000)
    first, second, other = (
        train_from_store(store, config, out=tmp_path / name)
        for name, config in (("a", short), ("b", short), ("c", short.model_copy(update={"seed": 1})))
    )
    assert first.fvu == second.fvu != other.fvu


def test_held_out_rows_are_not_trained_on(planted, tmp_path):
    """Other held-out rows change the fit but not the decoder."""
    base, delta = planted
    changed = delta.clone()
    changed[-(N_ROWS // 8) :] *= 3
    short = settings(n_samples=2000)
    rows = [
        train_from_store(write_store(tmp_path / f"s{i}", base, d), short, out=tmp_path / f"d{i}")
        for i, d in enumerate((delta, changed))
    ]
    one, two = (load_dictionary(tmp_path / f"d{i}") for i in range(2))
    assert torch.equal(one.coder.W_dec, two.coder.W_dec)
    assert rows[0].fvu != rows[1].fvu


def test_sorted_held_out_rows_calibrate_like_shuffled_ones(planted, tmp_path):
    """Documents may come with the loudest first; read in that order calibration refuses."""
    _, delta = planted
    rows = delta.repeat(3, 1) * torch.linspace(6, 0.1, 3 * N_ROWS)[:, None]
    config, fit = settings(n_samples=2000), np.arange(N_ROWS)

    def trained(held_out, name):
        both = torch.cat([delta, held_out])
        store = ActivationStore(write_store(tmp_path / f"store-{name}", both, both))
        job = Job(config, tmp_path / name)
        unseen = np.arange(N_ROWS, store.n_rows)
        return train_on_rows(store, {name: job}, fit, unseen, cards={}, watcher=Silent()).done[name]

    loudest_first, quietest_first = trained(rows, "a"), trained(rows.flip(0), "b")
    assert loudest_first.l0 == pytest.approx(quietest_first.l0, abs=1e-3)
    assert loudest_first.fvu == pytest.approx(quietest_first.fvu)
    with pytest.raises(EvidenceError) as caught:
        calibrate(load_dictionary(tmp_path / "a"), rows.split(HELD_OUT_BATCH))
    assert caught.value.code == "stream-not-shuffled"


def test_each_kind_reads_its_side_or_both(planted, tmp_path):
    base, delta = (x.bfloat16().float() for x in planted)
    store = ActivationStore(write_store(tmp_path / "store", base, delta))
    for kind, expected in (("sae", base), ("diff", delta), ("crosscoder", torch.stack([base, base + delta], dim=1))):
        read = settings(kind=kind).input
        assert torch.equal(read.of({name: store.read(name) for name in tensors_of([read])}), expected)


def test_a_crosscoder_reads_both_sides(planted, tmp_path):
    store = write_store(tmp_path / "store", *planted)
    row = train_from_store(store, settings(kind="crosscoder", n_samples=2000), out=tmp_path / "cc")
    assert row.fvu_delta is not None
    assert load_dictionary(tmp_path / "cc").coder.W_dec.shape == (4 * D_MODEL, 2, D_MODEL)


class Logs(Callback):
    """The steps that were logged."""

    def __init__(self):
        self.steps = []

    def on_log(self, metrics):
        self.steps.append(int(metrics["step"]))


@pytest.mark.parametrize(("n_steps", "logged"), [(24, [10, 20, 24]), (5, [5])])
def test_a_short_run_is_logged_every_ten_steps_and_at_its_end(planted, tmp_path, n_steps, logged):
    store, logs = write_store(tmp_path / "store", *planted), Logs()
    train_from_store(store, settings(n_samples=200 * n_steps), out=tmp_path / "d", callbacks=[logs])
    assert logs.steps == logged


class Stopped(Exception):
    pass


class StopsAt:
    """A watcher that breaks the run after some steps."""

    def __init__(self, step):
        self.step, self.first = step, None

    def stage(self, name): ...

    def skipped(self, name, reason): ...

    def note(self, text): ...

    def progress(self, done, total):
        self.first = done if self.first is None else self.first
        if done >= self.step:
            raise Stopped


def test_a_stopped_run_continues_and_ends_the_same(planted, tmp_path):
    store = write_store(tmp_path / "store", *planted)
    config = settings(n_samples=200 * 200, checkpoint_every=50)
    whole = train_from_store(store, config, out=tmp_path / "whole")
    with pytest.raises(Stopped):
        train_from_store(store, config, out=tmp_path / "resumed", watcher=StopsAt(140))
    assert not (tmp_path / "resumed").exists()
    watcher = StopsAt(10**9)
    resumed = train_from_store(store, config, out=tmp_path / "resumed", watcher=watcher)
    assert watcher.first == 100, "the checkpoint before the stop"
    assert resumed.fvu == whole.fvu


def test_errors_name_what_is_there(planted, tmp_path):
    store = write_store(tmp_path / "store", *planted)
    with pytest.raises(ArtifactError, match=r"no tensor 'layers.9/tuned'; it has layers.1/base, layers.1/tuned"):
        train_from_store(store, settings(site="layers.9"), out=tmp_path / "o")
    with pytest.raises(ArtifactError, match=r"no tensor 'layers\.1/other'"):
        train_from_store(store, settings(side="other"), out=tmp_path / "o")
    small = write_store(tmp_path / "small", *(x[:64] for x in planted))
    with pytest.raises(EvidenceError, match="64 rows of several documents") as caught:
        train_from_store(small, settings(), out=tmp_path / "o")
    assert caught.value.code == "too-few-rows"
