"""What a user types: `torchrun ... saeaudit harvest` and `train`, and what is seen when it fails."""

import os
import subprocess

import pytest
import torch

from planted_dictionaries import planted
from processes import BIN, torchrun
from saeaudit.activations import StoreWriter, UnitText
from saeaudit.artifacts import file_hash
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.train_store import train_from_store
from saeaudit.dictionaries import load_dictionary
from tiny import save_checkpoint, tiny_loaded, tuned_copy

SIZES = {"expansion": 2, "k": 4, "n_samples": 4000, "batch_size": 100}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """1600 rows, written without a model."""
    directory, x = tmp_path_factory.mktemp("torchrun") / "store", planted(1600, d_model=16, n_atoms=32).x
    writer = StoreWriter(directory, made_from={"models": {}}, unit_rows=[1600], tensors=["layers.2/tuned"])
    writer.write(0, {"layers.2/tuned": x}, UnitText(torch.zeros(1600, dtype=torch.int32), torch.full((80,), 20)))
    return directory


@pytest.mark.parametrize("shards", [1, 2])
def test_two_processes_train_the_dictionary_of_one(store, tmp_path, shards):
    arguments = ["train", store, "--site", "layers.2", *(f"--set={name}={value}" for name, value in SIZES.items())]
    train_from_store(store, StoreTraining(site="layers.2", **SIZES), out=tmp_path / "one")
    shared = ["--set", f"latent_shards={shards}", "--out", tmp_path / "two"]
    done = torchrun("--no-python", BIN / "saeaudit", *arguments, *shared)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("FVU") == 1 and sorted(p.name for p in tmp_path.iterdir()) == ["one", "two"]
    one, two = load_dictionary(tmp_path / "one"), load_dictionary(tmp_path / "two")
    for name in ("W_enc", "W_dec", "threshold"):
        torch.testing.assert_close(getattr(two, name), getattr(one, name), rtol=1e-3, atol=1e-4)
    assert one.provenance.training["tokens"] == two.provenance.training["tokens"] == 4000


def test_an_error_ends_all_processes_and_is_readable(store, tmp_path):
    out = ["--site", "layers.2", "--out", tmp_path / "out", "--set", "batch_size=101"]
    done = torchrun("-m", "saeaudit", "train", store, *out)
    assert done.returncode != 0
    assert "error: a batch of 101 rows cannot be divided among 2 processes" in done.stderr
    assert not (tmp_path / "out").exists()


def test_commands_of_one_process_refuse_to_be_several(tmp_path):
    environment = os.environ | {"WORLD_SIZE": "2", "RANK": "1"}
    command = [BIN / "saeaudit", "audit", "a", "b", "--out", tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "rank 1: error: 2 processes were started, but audit is the work of one" in done.stderr


@pytest.mark.slow  # three processes load transformers
def test_two_processes_write_the_store_of_one(tmp_path):
    save_checkpoint(tmp_path / "base")
    save_checkpoint(tmp_path / "tuned", model=tuned_copy(tiny_loaded()).model)
    (tmp_path / "corpus.txt").write_text("\n\n".join(f"the cat {i} sat on the mat and looked" for i in range(4000)))
    arguments = ["harvest", tmp_path / "base", tmp_path / "tuned", "--corpus", tmp_path / "corpus.txt", "--layers", "1"]
    for size, out in ((1, "one"), (2, "two")):
        done = torchrun("-m", "saeaudit", *arguments, "--out", tmp_path / out, processes=size)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("store: ") == 1, "the first process alone speaks"
    one, two = ({p.name: file_hash(p) for p in (tmp_path / out).iterdir()} for out in ("one", "two"))
    assert len(one) > 2 and one == two
