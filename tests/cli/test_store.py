"""`harvest` and `train` with real tiny models: from two checkpoints to a dictionary."""

import re

import pytest
import torch

from saeaudit import models
from saeaudit.activations import ActivationStore
from saeaudit.audit import device
from saeaudit.cli.train import combinations
from saeaudit.dictionaries import load_dictionary
from tiny import save_checkpoint, tiny_loaded, tuned_copy


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair")
    save_checkpoint(directory / "base")
    save_checkpoint(directory / "tuned", model=tuned_copy(tiny_loaded()).model)
    (directory / "corpus.txt").write_text("\n\n".join(f"the cat {i} sat on the mat and looked" for i in range(40)))
    return directory


def harvest(saeaudit, pair, out, *options):
    arguments = ["--corpus", pair / "corpus.txt", "--layers", "1,2", "--out", out, "--max-length", "32"]
    return saeaudit("harvest", pair / "base", pair / "tuned", *arguments, *options)


def test_from_two_checkpoints_to_a_dictionary(saeaudit, pair, tmp_path):
    done = harvest(saeaudit, pair, tmp_path / "store")
    assert done.code == 0, done.err
    assert f"store: {tmp_path / 'store'}" in done.out
    store = ActivationStore(tmp_path / "store", verify=True)
    assert store.tensors == ["layers.1/base", "layers.1/tuned", "layers.2/base", "layers.2/tuned"]
    assert f"{store.n_rows} rows" in done.out

    assert harvest(saeaudit, pair, tmp_path / "store").code == 0, "the same command again finds its work done"

    train = ["train", tmp_path / "store", "--site", "layers.2", "--out", tmp_path / "dictionary"]
    sizes = ["--set", "expansion=2", "--set", "k=4", "--set", "n_samples=4000", "--set", "batch_size=100"]
    done = saeaudit(*train, *sizes)
    assert done.code == 0, done.err
    assert "FVU" in done.out
    dictionary = load_dictionary(tmp_path / "dictionary")
    assert (dictionary.kind, dictionary.n_latents, dictionary.config.k) == ("diff", 64, 4)
    assert dictionary.provenance.site == "layers.2"
    assert set(dictionary.provenance.cards) == {"base", "tuned"}

    again = saeaudit(*train, *sizes)
    assert again.code == 2
    assert "nothing is overwritten" in again.err


def test_the_cost_is_said_before_the_harvest(saeaudit, pair, tmp_path):
    done = harvest(saeaudit, pair, tmp_path / "store", "--estimate")
    assert done.code == 0, done.err
    said, started = (done.err.index(word) for word in ("TFLOP", " harvest\n"))
    assert said < started
    megabytes = float(re.search(r"([0-9.]+) MB on disk", done.err)[1])
    assert megabytes == pytest.approx(ActivationStore(tmp_path / "store").n_rows * (4 * 32 * 2 + 4) / 1e6, rel=5e-3)


def test_a_store_of_something_else_is_refused(saeaudit, pair, tmp_path):
    assert harvest(saeaudit, pair, tmp_path / "store").code == 0
    done = harvest(saeaudit, pair, tmp_path / "store", "--max-length", "16")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("error: ")


def test_what_the_user_has_in_a_directory_stays_and_a_stopped_harvest_goes_on(saeaudit, pair, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    (tmp_path / "file").write_text("")
    for out, says in (("mine", "is not empty, and nothing is overwritten"), ("file", "is a file and not a directory")):
        done = harvest(saeaudit, pair, tmp_path / out)
        assert done.code == 2 and says in done.err and "load" not in done.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]

    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / ".manifest.json.tmp-0123456789ab").write_text("{")
    assert harvest(saeaudit, pair, killed).code == 0
    (unit,) = killed.glob("unit-*")
    before = unit.read_bytes()
    unit.unlink()
    assert harvest(saeaudit, pair, killed).code == 0 and unit.read_bytes() == before


@pytest.mark.parametrize("layers", ["x", "1,,2", "-1", "1.5", ""])
def test_layers_that_are_no_numbers(saeaudit, pair, tmp_path, layers):
    done = harvest(saeaudit, pair, tmp_path / "store", "--layers", layers)
    assert done.code == 2
    assert "should be block numbers such as 13,17" in done.err
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("device", ["cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(saeaudit, pair, tmp_path, device):
    refused = harvest(saeaudit, pair, tmp_path / "s", "--device", device)
    assert harvest(saeaudit, pair, tmp_path / "store").code == 0
    train = ["train", tmp_path / "store", "--site", "layers.1", "--out", tmp_path / "d"]
    for done in (refused, saeaudit(*train, "--device", device), saeaudit(*train, "--set", f"device={device}")):
        assert done.code == 2
        assert f"error: device '{device}' was asked for" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_harvest_loads_the_models_where_it_was_told(saeaudit, pair, tmp_path, monkeypatch):
    loaded = []
    load = models.load_pair
    monkeypatch.setattr(device, "own_device", lambda asked: loaded.append(asked) or torch.device("cpu"))
    monkeypatch.setattr(models, "load_pair", lambda *a, **more: loaded.append(more["device"]) or load(*a, **more))
    assert harvest(saeaudit, pair, tmp_path / "s", "--device", "cuda:1").code == 0
    assert loaded == ["cuda:1", "cpu"]


SIZES = ["--set", "expansion=2", "--set", "n_samples=2000", "--set", "batch_size=100"]


def test_a_product_is_trained_in_one_pass(saeaudit, pair, tmp_path):
    assert harvest(saeaudit, pair, tmp_path / "store").code == 0
    one_pass = ["train", tmp_path / "store", "--out", tmp_path / "out", "--site", "layers.1", "--site", "layers.2"]
    one_pass += ["--k", "3", "--k", "5", "--seed", "2", "--log", tmp_path / "logs", *SIZES]
    done = saeaudit(*one_pass)
    assert done.code == 0, done.err
    names = ["layers.1-k3", "layers.1-k5", "layers.2-k3", "layers.2-k5"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [f"{name}.jsonl" for name in names]
    assert all(name in done.out for name in names) and "FVU" in done.out

    alone = ["train", tmp_path / "store", "--out", tmp_path / "one", "--site", "layers.2", "--k", "5", "--seed", "2"]
    assert saeaudit(*alone, *SIZES).code == 0
    one, many = load_dictionary(tmp_path / "one"), load_dictionary(tmp_path / "out" / "layers.2-k5")
    assert torch.equal(one.W_dec, many.W_dec) and torch.equal(one.threshold, many.threshold)

    again = saeaudit(*one_pass)
    assert again.code == 0, "the same command again finds its work done"
    assert again.out == done.out


def test_the_settings_of_a_file_hold_for_all_and_flags_win(saeaudit, pair, tmp_path):
    assert harvest(saeaudit, pair, tmp_path / "store").code == 0
    (tmp_path / "train.yaml").write_text("site: layers.1\nk: 7\nexpansion: 3\nn_samples: 2000\nbatch_size: 100\n")
    arguments = ["train", tmp_path / "store", "--out", tmp_path / "out", "--config", tmp_path / "train.yaml"]
    done = saeaudit(*arguments, "--kind", "diff", "--kind", "sae", "--set", "expansion=2")
    assert done.code == 0, done.err
    for kind in ("diff", "sae"):
        found = load_dictionary(tmp_path / "out" / kind)
        assert (found.kind, found.config.k, found.n_latents) == (kind, 7, 64)


def test_a_run_that_fails_is_in_the_table_and_the_others_are_saved(saeaudit, pair, tmp_path):
    """At this layer the two models are the same, so there is no difference to train on."""
    assert (
        saeaudit(
            "harvest",
            pair / "base",
            pair / "base",
            "--corpus",
            pair / "corpus.txt",
            "--layers",
            "1",
            "--out",
            tmp_path / "s",
        ).code
        == 0
    )
    product = ["--site", "layers.1", "--kind", "diff", "--kind", "sae", "--set", "k=4"]
    done = saeaudit("train", tmp_path / "s", "--out", tmp_path / "out", *product, *SIZES)
    assert done.code == 1
    assert "failed: degenerate-activations" in done.out
    assert "error: diff: the activations are constant" in done.err
    assert load_dictionary(tmp_path / "out" / "sae").kind == "sae"


def test_names_hold_what_differs():
    options = {"site": ["a", "b", "a"], "kind": ["diff"], "k": [16, 32], "seed": None}
    assert list(combinations(options)) == ["a-k16", "a-k32", "b-k16", "b-k32"]
    assert combinations(options)["b-k16"] == {"site": "b", "kind": "diff", "k": 16, "seed": None}
    assert list(combinations({"site": ["a"]})) == [""]


def test_train_names_bad_settings_and_missing_stores(saeaudit, tmp_path):
    done = saeaudit("train", tmp_path / "none", "--site", "layers.1", "--out", tmp_path / "o", "--set", "k=0")
    assert "k (from --set): input should be greater than or equal to 1" in done.err
    done = saeaudit("train", tmp_path / "none", "--site", "layers.1", "--out", tmp_path / "o")
    assert done.code == 2
    assert str(tmp_path / "none") in done.err


def test_on_a_terminal_every_run_has_a_line_with_its_fit(saeaudit, pair, tmp_path, monkeypatch):
    assert harvest(saeaudit, pair, tmp_path / "store").code == 0
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "140")
    done = saeaudit(
        "train", tmp_path / "store", "--out", tmp_path / "out", "--site", "layers.1", "--k", 2, "--k", 3, *SIZES
    )
    assert done.code == 0, done.err
    for name in ("k2", "k3"):
        assert re.search(rf"{name} .*20/20.* rows/s  FVU \d\.\d+  L0 ", done.err)
