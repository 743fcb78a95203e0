import pytest
import torch

from saeaudit.detection import PairedRows, plant_direction, pool
from saeaudit.errors import InputError, NumericsError


def test_pooling_by_hand():
    values = torch.tensor([1.0, 9.0, 2.0, 3.0, 4.0, 5.0, -1.0])
    offsets = torch.tensor([0, 6, 7])
    assert pool(values, offsets, "last").tolist() == [5, -1]
    assert pool(values, offsets, "max").tolist() == [9, -1]
    assert pool(values, offsets, "top4").tolist() == [(9 + 5 + 4 + 3) / 4, -1]
    assert pool(values, offsets, "mean").tolist() == [4, -1]
    assert pool(values, offsets, "max", skip=2).tolist() == [5, -1]
    assert pool(values[:, None].expand(-1, 3), offsets).shape == (2, 3)


@pytest.mark.parametrize("offsets", [[0, 3], [1, 4], [0, 2, 2, 4], [0, 3, 2, 4], [0]])
def test_offsets_must_cut_the_tokens(offsets):
    with pytest.raises(InputError) as caught:
        pool(torch.zeros(4), torch.tensor(offsets))
    assert caught.value.code in ("bad-offsets", "empty-document")


def test_planting_moves_trigger_rows_only_by_the_stated_size(make_rows):
    rows = make_rows()
    planted = plant_direction(rows, strength=2.0, seed=0)
    moved = (planted.delta - rows.delta).norm(dim=1)
    size = float(rows.delta.square().sum(1).mean().sqrt())
    assert moved[rows.label].tolist() == pytest.approx([2 * size] * int(rows.label.sum()), rel=1e-4)
    assert float(moved[~rows.label].max()) == 0
    assert torch.equal(plant_direction(rows, strength=0.0, seed=0).delta, rows.delta)


def test_taking_rows_keeps_them_together(make_rows):
    rows = make_rows(4)
    taken = rows.take(torch.tensor([5, 0]))
    assert taken.text == [rows.text[5], rows.text[0]] and taken.group.tolist() == [0, 0]
    assert torch.equal(taken.h1, rows.h0[[5, 0]] + rows.delta[[5, 0]])
    assert len(rows.benign()) == 12 and not rows.benign().label.any()


def test_bad_rows_are_named(make_rows):
    rows = make_rows(2)
    with pytest.raises(InputError, match="'text': 1"):
        PairedRows(rows.h0, rows.delta, ["a"], rows.label, rows.klass, rows.group)
    broken = rows.delta.clone()
    broken[7, 2] = float("inf")
    with pytest.raises(NumericsError, match="delta of row 7"):
        PairedRows(rows.h0, broken, rows.text, rows.label, rows.klass, rows.group)
