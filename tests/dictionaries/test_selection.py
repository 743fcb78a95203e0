import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles_dictionaries import largest_places
from saeaudit.dictionaries import BatchTopK, select_largest
from saeaudit.dictionaries.selection import scores_above
from saeaudit.dictionaries.topk import largest_of_rows


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 7),
    latents=st.integers(1, 9),
    share=st.floats(0, 1.5),
    levels=st.sampled_from([1, 2, 5, 1000]),
    hint=st.sampled_from([0.0, 1e-30, 0.1, 0.5, 1.0, 1e6]),
    weighted=st.booleans(),
)
def test_equals_a_full_sort_with_ties_jumps_and_empty_batches(seed, rows, latents, share, levels, hint, weighted):
    g = torch.Generator().manual_seed(seed)
    pre = (torch.rand(rows, latents, generator=g) * 2 - 1).mul(levels).round().div(levels)
    weights = 2.0 ** torch.randint(-2, 3, (latents,), generator=g) if weighted else None
    n = int(share * rows * latents)
    score = pre if weights is None else pre * weights
    expected = largest_places(score, n)
    selection = select_largest(pre, n, weights=weights, hint=hint)
    if n:
        assert selection.flat.tolist() == expected
        assert selection.smallest == (min(score.flatten()[expected].tolist()) if expected else 0.0)


def test_the_hint_never_changes_the_result():
    pre = torch.randn(50, 80, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(80, generator=torch.Generator().manual_seed(1)) + 0.1
    for w in (None, weights):
        reference = select_largest(pre, 200, weights=w)
        assert len(reference.flat) == 200
        for hint in (reference.smallest, reference.smallest / 0.95, reference.smallest * 1.2, 1e9, 1e-9):
            assert torch.equal(select_largest(pre, 200, weights=w, hint=hint).flat, reference.flat)


@pytest.mark.parametrize("value", [-1.0, 0.0])
def test_nothing_positive_selects_nothing(value):
    selection = select_largest(torch.full((3, 4), value), 5, hint=0.7)
    assert selection.flat.numel() == 0 and selection.smallest == 0


def test_bfloat16_agrees_with_the_float32_of_the_same_numbers():
    pre = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)).bfloat16()
    for bound in (0.0, 0.25, 1.0):
        assert torch.equal(scores_above(pre, bound).flat, scores_above(pre.float(), bound).flat)
    assert torch.equal(select_largest(pre, 300, hint=1.5).flat, select_largest(pre.float(), 300).flat)


def test_rounding_a_limit_to_bfloat16_hides_nothing():
    """The limit of a latent lies between two bfloat16 numbers; rounded up, it would hide the entries equal to it."""
    pre = (1 + torch.rand(4, 300, generator=torch.Generator().manual_seed(0)) / 10).bfloat16()
    weights = 1 + torch.rand(300, generator=torch.Generator().manual_seed(1)) / 50
    expected = scores_above(pre.float(), 1.05, weights=weights)
    assert torch.equal(scores_above(pre, 1.05, weights=weights).flat, expected.flat)


def test_batch_topk_spends_its_budget_where_the_scores_are():
    pre = torch.tensor([[5.0, 4.0, 3.0], [2.0, 1.0, -1.0]])
    assert BatchTopK(2).select(pre, None).flat.tolist() == [0, 1, 2, 3]
    assert BatchTopK(1).select(pre, torch.tensor([0.1, 0.1, 1.0])).flat.tolist() == [0, 2]


def test_the_inference_rule_needs_a_positive_value_even_at_threshold_zero():
    active = BatchTopK(1).active(torch.tensor([[-1.0, 0.0, 0.1]]), None, torch.tensor(0.0))
    assert active.tolist() == [[False, False, True]]


def test_rounding_at_the_bound_cannot_hide_the_best_entry():
    """The weighted bound is compared after a division; an entry that rounds onto it may still have the best score."""
    hint = 1.0
    bound = torch.tensor(0.95 * hint)
    w = torch.rand(10_000, generator=torch.Generator().manual_seed(0)) + 0.5
    hidden = w[(bound / w) * w > bound][0]
    pre = torch.stack([bound / hidden, torch.nextafter(bound, torch.tensor(2.0))])[None]
    weights = torch.stack([hidden, torch.tensor(1.0)])
    assert not pre[0, 0] > 0.95 * hint / hidden, "the first entry must lie on the bound"
    expected = largest_places(pre * weights, 1)
    assert select_largest(pre, 1, weights=weights, hint=hint).flat.tolist() == expected == [0]


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 5), n=st.integers(1, 9), levels=st.sampled_from([1, 3, 1000]))
def test_rows_in_bfloat16_are_ranked_as_the_float32_of_the_same_numbers(seed, rows, n, levels):
    g = torch.Generator().manual_seed(seed)
    score = (torch.rand(rows, n, generator=g) * 2 - 1).mul(levels).round().div(levels).bfloat16()
    k = 1 + seed % n
    found = largest_of_rows(score, k)
    assert torch.equal(found, largest_of_rows(score.float(), k))
    expected = [i * n + j for i in range(rows) for j in largest_places(score[i].float(), k)]
    assert found.tolist() == expected
