import numpy as np
import pytest
import torch

from saeaudit.errors import EvidenceError
from saeaudit.training import ResumableBatches, tensor_batches


def numbered(n, dtype=torch.float32):
    return torch.arange(n, dtype=dtype)[:, None].expand(n, 3).contiguous()


def test_an_epoch_is_a_permutation_and_epochs_differ():
    """crosscoder-model-diff-replication fills half of a buffer again with rows it has already shown."""
    batches = list(tensor_batches(numbered(60), 10, seed=0, n_steps=12))
    first, second = torch.cat(batches[:6])[:, 0], torch.cat(batches[6:])[:, 0]
    for epoch in (first, second):
        assert sorted(epoch.tolist()) == list(range(60))
    assert not torch.equal(first, second) and first.tolist() != list(range(60))


def test_rows_left_over_in_one_epoch_come_in_another():
    batches = tensor_batches(numbered(25), 10, seed=0, n_steps=40)
    seen = [set(torch.cat(list(batches)[2 * e : 2 * e + 2])[:, 0].tolist()) for e in range(20)]
    assert all(len(rows) == 20 for rows in seen)
    assert set().union(*seen) == set(range(25))


@pytest.mark.parametrize("step", [0, 1, 5, 6, 13, 17, 20])
def test_starting_at_a_step_equals_iterating_to_it(step):
    batches = tensor_batches(numbered(64), 10, seed=3, n_steps=20)
    expected = list(batches)[step:]
    found = list(tensor_batches(numbered(64), 10, seed=3, n_steps=20).starting_at(step))
    assert len(found) == len(expected) == 20 - step
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_seeds_give_other_orders():
    a, b = (next(iter(tensor_batches(numbered(64), 10, seed=s, n_steps=1))) for s in (0, 1))
    assert not torch.equal(a, b)


def test_memory_mapped_files_of_half_floats_are_read(tmp_path):
    values = np.arange(120).reshape(40, 3).astype(np.float16)
    values.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", dtype=np.float16, mode="r", shape=(40, 3))
    batch = next(iter(tensor_batches(mapped, 8, seed=0, n_steps=1)))
    assert batch.dtype == torch.float32 and batch.shape == (8, 3)
    expected = next(iter(tensor_batches(torch.tensor(values), 8, seed=0, n_steps=1)))
    assert torch.equal(batch, expected)
    torch.arange(120).bfloat16().view(torch.int16).numpy().tofile(tmp_path / "y.bin")
    brain = torch.from_file(str(tmp_path / "y.bin"), dtype=torch.bfloat16, size=120).view(40, 3)
    assert torch.equal(next(iter(tensor_batches(brain, 8, seed=0, n_steps=1))), expected)


def test_too_few_rows_is_an_error_and_not_a_repetition():
    with pytest.raises(EvidenceError, match="10 rows exist") as caught:
        tensor_batches(numbered(10), 11, seed=0, n_steps=1)
    assert caught.value.code == "too-few-rows"


def test_they_can_start_in_the_middle_and_a_list_cannot():
    assert isinstance(tensor_batches(numbered(10), 5, seed=0, n_steps=1), ResumableBatches)
    assert not isinstance([numbered(10)], ResumableBatches)
