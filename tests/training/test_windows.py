"""Batches from a source that does not fit into memory: every row once an epoch, in bounded memory, from any step."""

import gc
import weakref
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from saeaudit.activations import ActivationStore, StoreWriter, UnitText
from saeaudit.errors import EvidenceError
from saeaudit.training import ResumableBatches, WindowedBatches


class Numbers:
    """Row i of "a" is (i, ...), of "b" it is (-i, ...)."""

    def __init__(self, n_rows, width=4):
        self.n_rows, self.width, self.reads = n_rows, width, []

    def read(self, name, rows):
        self.reads.append(len(rows))
        value = torch.from_numpy(rows).float()[:, None].expand(-1, self.width)
        return value.clone() if name == "a" else -value


def batches(n_rows, batch_size, *, window_rows, seed=0, names=("a", "b"), **settings):
    """Windows in fp32, so that every number is exact: 16 bytes a row and name."""
    window_bytes = window_rows * 16 * len(names)
    return WindowedBatches(
        Numbers(n_rows), names, batch_size, seed=seed, window_bytes=window_bytes, dtype=torch.float32, **settings
    )


def numbers(stream):
    return [[int(i) for i in batch["a"][:, 0]] for batch in stream]


def flat(lists):
    return list(chain.from_iterable(lists))


@given(
    n_rows=st.integers(1, 300),
    batch_size=st.integers(1, 40),
    window_rows=st.integers(1, 400),
    drop_last=st.booleans(),
)
def test_an_epoch_is_a_permutation(n_rows, batch_size, window_rows, drop_last):
    if drop_last and n_rows < batch_size:
        return
    epoch = numbers(batches(n_rows, batch_size, window_rows=window_rows, drop_last=drop_last))
    seen = sorted(flat(epoch))
    if drop_last:
        assert len(set(seen)) == len(seen) == n_rows // batch_size * batch_size and set(seen) <= set(range(n_rows))
        assert {len(batch) for batch in epoch} == {batch_size}
    else:
        assert seen == list(range(n_rows))


@given(step=st.integers(0, 40), window_rows=st.sampled_from([10, 50, 64, 200]), batch_size=st.sampled_from([5, 8]))
def test_starting_at_a_step_equals_iterating_to_it(step, window_rows, batch_size):
    stream = batches(93, batch_size, window_rows=window_rows, n_steps=40)
    whole = list(stream)
    rest = list(stream.starting_at(step))
    assert len(rest) == 40 - step
    for a, b in zip(whole[step:], rest, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in ("a", "b"))


@pytest.mark.parametrize("window_rows", [20, 60, 1000])
def test_epochs_seeds_and_the_source_are_in_different_orders(window_rows):
    orders = []
    for seed in (0, 1):
        stream = numbers(batches(60, 10, window_rows=window_rows, seed=seed, n_steps=12))
        orders += [flat(stream[:6]), flat(stream[6:])]
    orders.append(list(range(60)))
    assert len({tuple(order) for order in orders}) == len(orders)
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(60))}


def test_rows_left_over_in_one_epoch_come_in_another():
    stream = numbers(batches(25, 10, window_rows=10, n_steps=40))
    assert set().union(*stream) == set(range(25))
    assert len(set(stream[0] + stream[1])) == 20


def test_all_names_show_the_same_rows_and_chosen_rows_only():
    chosen = np.array([7, 3, 50, 51, 4, 90, 12, 13])
    stream = batches(100, 4, window_rows=4, rows=chosen)
    found = list(stream)
    assert all(torch.equal(batch["a"], -batch["b"]) for batch in found)
    assert sorted(flat(numbers(stream))) == sorted(chosen)


def test_a_source_that_fits_is_read_once():
    stream = batches(64, 8, window_rows=64, names=("a",), n_steps=40)
    list(stream)
    assert sum(stream.source.reads) == 64 + 1, "one row more, to see the width"


def test_reads_are_blocks_and_not_rows():
    stream = batches(40_000, 100, window_rows=10_000, names=("a",))
    list(stream)
    sizes = Counter(stream.source.reads[1:])
    assert sizes.most_common(1)[0][0] == 10_000 // 64
    assert sum(sizes.values()) < 40_000 / 100


def test_batches_mix_rows_from_all_over_the_source():
    """Neighbours in a batch are no nearer in the source than any two rows, and a batch reaches over all of it."""
    n_rows, batch_size = 40_000, 200
    stream = numbers(batches(n_rows, batch_size, window_rows=10_000, names=("a",)))
    correlation = np.mean([np.corrcoef(batch[:-1], batch[1:])[0, 1] for batch in stream])
    assert abs(correlation + 1 / batch_size) < 3 / n_rows**0.5
    assert np.mean([np.var(batch) for batch in stream]) > 0.95 * np.var(np.arange(n_rows))


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that operations made and that still exist, and the most of them at once.

    Views count nothing, and so does what is mapped from a file.
    """

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in given | self.known:
                self.known.add(storage._cdata)
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self.gone, storage._cdata, storage.nbytes())
        return out

    def gone(self, key, size):
        self.known.discard(key)
        self.bytes -= size


def tensors_in(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """8 MB of two tensors in four units."""
    path, generator = tmp_path_factory.mktemp("large") / "store", torch.Generator().manual_seed(0)
    names, unit_rows = ["layers.1/base", "layers.1/tuned"], [9000, 5000, 7000, 11_000]
    writer = StoreWriter(path, made_from={}, unit_rows=unit_rows, tensors=names)
    for i, n in enumerate(unit_rows):
        text = UnitText(torch.zeros(n, dtype=torch.int32), torch.tensor([n]))
        writer.write(i, {name: torch.randn(n, 64, generator=generator) for name in names}, text)
    return ActivationStore(path)


def test_memory_is_the_window_and_a_tenth(store):
    window, batch_size = 1 << 20, 256
    stream = WindowedBatches(store, store.tensors, batch_size, seed=0, n_steps=20, window_bytes=window)
    batch_bytes = 2 * batch_size * 64 * (4 + 2)  # as stored, and in fp32
    with Live() as live:
        for batch in stream:
            del batch
        assert window * 0.9 < live.peak < window * 1.1 + batch_bytes
        gc.collect()
        assert live.bytes < 0.01 * window, "nothing is kept"


def test_rows_of_a_store_come_unchanged(store):
    def rows(parts):
        return sorted(row.tobytes() for row in torch.cat([parts[name] for name in store.tensors], 1).numpy())

    stream = WindowedBatches(store, store.tensors, 500, seed=0, window_bytes=1 << 20, drop_last=False)
    found = list(stream)
    joined = {name: torch.cat([batch[name] for batch in found]) for name in store.tensors}
    assert rows(joined) == rows({name: store.read(name) for name in store.tensors})


@pytest.mark.parametrize(("n_rows", "drop_last"), [(9, True), (0, False)])
def test_too_few_rows_is_an_error_and_not_a_repetition(n_rows, drop_last):
    with pytest.raises(EvidenceError, match=f"{n_rows} rows exist") as caught:
        batches(n_rows, 10, window_rows=10, drop_last=drop_last)
    assert caught.value.code == "too-few-rows"


def test_they_can_start_in_the_middle():
    assert isinstance(batches(10, 5, window_rows=5), ResumableBatches)
