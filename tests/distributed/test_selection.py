"""Choosing over ranks is choosing in one process: the same places, ties included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from processes import in_threads
from saeaudit.dictionaries import select_largest
from saeaudit.dictionaries.order_statistic import nth_largest
from saeaudit.dictionaries.topk import largest_of_rows
from saeaudit.distributed import ALONE

# Few values, so that most examples have ties at the cutoff.
COARSE = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 1.0 + 2**-23, 2.0, 1e-30, 3e30])


@st.composite
def matrices(draw, rows, columns):
    shape = draw(rows), draw(columns)
    values = draw(st.lists(COARSE, min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return torch.tensor(values).reshape(shape)


@given(
    st.lists(st.floats(2.0**-140, 2.0**127, width=32), min_size=1, max_size=40), st.integers(1, 50), st.integers(2, 4)
)
def test_the_nth_largest_of_all_ranks(numbers, n, size):
    for dtype in (torch.float32, torch.float64):
        parts = torch.tensor(numbers, dtype=dtype).tensor_split(size)
        expected = sorted(torch.tensor(numbers, dtype=dtype).tolist(), reverse=True)[n - 1 : n] or [None]
        found = in_threads(size, lambda ranks, parts=parts: nth_largest(parts[ranks.rank], n, ranks))
        assert found == expected * size
        assert [nth_largest(torch.tensor(numbers, dtype=dtype), n, ALONE)] == expected


@given(matrices(st.sampled_from([2, 4, 6]), st.integers(1, 6)), st.integers(1, 20), st.sampled_from([0.0, 0.7, 5.0]))
def test_rows_of_a_batch_compete_over_ranks(pre, n, hint):
    expected = select_largest(pre, n, hint=hint)
    parts = pre.tensor_split(2)
    found = in_threads(2, lambda ranks: select_largest(parts[ranks.rank], n, hint=hint, ranks=ranks))
    flat = torch.cat([part.flat + rank * parts[0].numel() for rank, part in enumerate(found)])
    assert flat.tolist() == expected.flat.tolist()
    assert {part.smallest for part in found} == {expected.smallest}


@given(matrices(st.sampled_from([2, 4]), st.sampled_from([2, 4, 6])), st.integers(1, 20))
def test_blocks_of_a_batch_compete_over_a_grid_of_ranks(pre, n):
    """Two ranks share the upper rows and two the lower ones; ties are taken row by row, as by one process."""
    expected = select_largest(pre, n)
    n_rows, n_latents = (size // 2 for size in pre.shape)
    blocks = [block.contiguous() for rows in pre.split(n_rows) for block in rows.split(n_latents, dim=1)]
    found = in_threads(4, lambda ranks: select_largest(blocks[ranks.rank], n, ranks=ranks, columns=2))
    places = [
        (rank // 2 * n_rows + int(i) // n_latents) * 2 * n_latents + rank % 2 * n_latents + int(i) % n_latents
        for rank, part in enumerate(found)
        for i in part.flat
    ]
    assert sorted(places) == expected.flat.tolist()


@given(matrices(st.integers(1, 4), st.sampled_from([3, 6])), st.integers(1, 6))
def test_latents_of_a_row_compete_over_ranks(score, k):
    n = score.shape[1] // 3
    parts = score.split(n, dim=1)
    found = in_threads(3, lambda ranks: largest_of_rows(parts[ranks.rank].contiguous(), k, ranks))
    places = {(int(i) // n, rank * n + int(i) % n) for rank, flat in enumerate(found) for i in flat}
    expected = largest_of_rows(score, min(k, score.shape[1]))
    assert places == {(int(i) // score.shape[1], int(i) % score.shape[1]) for i in expected}


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_without_candidates_take_part(size):
    """One rank has no latent at all (none of its own is dead), another nothing positive."""
    parts = [torch.ones(2, 4), torch.empty(2, 0), -torch.ones(2, 1)]
    found = in_threads(size, lambda ranks: largest_of_rows(parts[ranks.rank], 3, ranks).tolist())
    assert found == [[0, 1, 2, 4, 5, 6], [], []][:size]
