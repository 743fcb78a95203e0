"""Processes that train on a store: the first one judges and writes, all learn what it found."""

import pytest
import torch

from planted_dictionaries import planted
from processes import in_processes
from saeaudit.activations import StoreWriter, UnitText
from saeaudit.audit.one_dictionary import StoreTraining
from saeaudit.audit.train_store import train_many_from_store
from saeaudit.dictionaries import load_dictionary
from saeaudit.errors import EvidenceError, ResourceError
from saeaudit.training import Callback

SIZES = {"site": "a", "expansion": 2, "k": 4, "n_samples": 2000, "batch_size": 100, "lr": 3e-3}
SWEEP = {
    "rows": StoreTraining(**SIZES),
    "latents": StoreTraining(**SIZES, sparsity="topk", latent_shards=2),
}


@pytest.fixture
def store(tmp_path):
    writer = StoreWriter(tmp_path / "store", made_from={"models": {}}, unit_rows=[1600], tensors=["a/tuned"])
    text = UnitText(torch.zeros(1600, dtype=torch.int32), torch.full((80,), 20))
    writer.write(0, {"a/tuned": planted(1600, d_model=16, n_atoms=32).x}, text)
    return tmp_path / "store"


def test_a_sweep_is_that_of_one_process(store, tmp_path):
    alone = train_many_from_store(store, SWEEP, out=tmp_path / "alone")

    def work(ranks):
        trained = train_many_from_store(store, SWEEP, out=tmp_path / "shared", ranks=ranks)
        return {name: row.model_dump() for name, row in trained.done.items()}

    first, second = in_processes(2, work, tmp_path / "meet")
    assert first == second
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["latents", "rows"]
    for name, row in alone.done.items():
        assert first[name]["fvu"] == pytest.approx(row.fvu, rel=1e-3)
        one, two = load_dictionary(tmp_path / "alone" / name), load_dictionary(tmp_path / "shared" / name)
        torch.testing.assert_close(two.W_enc, one.W_enc, rtol=0, atol=1e-4)
    again = in_processes(2, work, tmp_path / "again")
    assert again == [first, second], "what is there is only read"


def test_an_error_that_one_rank_meets_alone_ends_all(store, tmp_path):
    class Broken(Callback):
        def on_log(self, metrics):
            raise EvidenceError("no disk", code="x")

    def work(ranks):
        with pytest.raises(ResourceError if ranks.rank else EvidenceError) as caught:
            callbacks = {"rows": [Broken()]}
            train_many_from_store(store, SWEEP, out=tmp_path / "shared", ranks=ranks, callbacks=callbacks)
        return {"code": caught.value.code}

    assert [each["code"] for each in in_processes(2, work, tmp_path / "meet")] == ["x", "rank-lost"]
    assert not list((tmp_path / "shared").glob("[!.]*"))
