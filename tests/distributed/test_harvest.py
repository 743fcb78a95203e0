"""Processes that share a harvest write the store of one, byte for byte, whatever dies on the way."""

import os
import signal

import pytest

from processes import in_processes
from saeaudit.activations import BASE, ActivationStore, HarvestConfig, StoreWriter, harvest, tokenise
from saeaudit.activations.documents import Document
from saeaudit.artifacts import directory_lock, file_hash
from saeaudit.errors import ArtifactError, NumericsError, ResourceError
from saeaudit.models import blocks
from tiny import TEXTS, tiny_tokenizer

SITES, CONFIG = ["layers.1"], HarvestConfig(batch_tokens=90, unit_rows=80)


@pytest.fixture
def tokens():
    texts = [" ".join(TEXTS[(i + k) % len(TEXTS)] for k in range(1 + i * 5 % 3)) for i in range(24)]
    documents = [Document(f"d{i}", text[: 12 + 37 * i % 150]) for i, text in enumerate(texts)]
    return tokenise(tiny_tokenizer(), documents, max_length=48, too_long="truncate")


@pytest.fixture
def run(tiny_pair, tokens):
    """Harvest into a directory, alone or with others."""
    models = {BASE: tiny_pair.base, "tuned": tiny_pair.tuned}

    def call(out, progress=None, **ranks):
        return harvest(models, tokens, SITES, CONFIG, out=out, progress=progress, **ranks)

    return call


def hashes(directory):
    return {path.name: file_hash(path) for path in directory.iterdir()}


@pytest.mark.parametrize("size", [2, 3])
def test_the_store_is_that_of_one_process(run, tmp_path, size):
    run(tmp_path / "one")
    assert len(hashes(tmp_path / "one")) == 11, "10 units, which 3 processes cannot divide equally"

    def work(ranks):
        seen = []
        store = run(tmp_path / "shared", progress=lambda *at: seen.append(at), ranks=ranks)
        again = []
        run(tmp_path / "shared", progress=lambda *at: again.append(at), ranks=ranks)
        return {"seen": seen, "again": again, "n_rows": store.n_rows}

    found = in_processes(size, work, tmp_path / "meet")
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "one")
    for each in found:
        assert each["n_rows"] == ActivationStore(tmp_path / "one").n_rows and each["again"] == []
        assert each["seen"] == sorted(set(each["seen"])) and each["seen"][-1][0] <= 24


def test_a_killed_rank_leaves_a_store_that_continues(run, tmp_path, monkeypatch):
    run(tmp_path / "one")
    write, calls = StoreWriter.write, []

    def work(ranks):
        def dying(self, *arguments):
            calls.append(arguments[0])
            if ranks.rank == 1 and len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            write(self, *arguments)

        monkeypatch.setattr(StoreWriter, "write", dying)
        with pytest.raises(ResourceError, match="the same command again continues"):
            run(tmp_path / "shared", ranks=ranks)
        return {}

    in_processes(2, work, tmp_path / "first", exits=[0, -signal.SIGKILL])
    with pytest.raises(ArtifactError, match="has 2 of 10 units"):
        ActivationStore(tmp_path / "shared")
    in_processes(3, lambda ranks: {"n_rows": run(tmp_path / "shared", ranks=ranks).n_rows}, tmp_path / "second")
    assert hashes(tmp_path / "shared") == hashes(tmp_path / "one")


def test_an_error_of_one_rank_ends_all(run, tiny_pair, tmp_path):
    def work(ranks):
        if ranks.rank == 1:
            blocks(tiny_pair.tuned.model)[1].mlp.down_proj.weight.data[0, 0] = float("nan")
        with pytest.raises(NumericsError if ranks.rank else ResourceError):
            run(tmp_path / "shared", ranks=ranks)
        return {}

    in_processes(2, work, tmp_path / "meet")


def test_a_store_that_is_being_written_is_left_alone_by_all(run, tmp_path):
    def work(ranks):
        with pytest.raises(ResourceError if ranks.rank else ArtifactError) as caught:
            run(tmp_path / "shared", ranks=ranks)
        return {"code": caught.value.code}

    with directory_lock(tmp_path / "shared"):
        found = in_processes(2, work, tmp_path / "meet")
    assert [each["code"] for each in found] == ["directory-locked", "rank-lost"]
    assert not list((tmp_path / "shared").glob("unit*"))
