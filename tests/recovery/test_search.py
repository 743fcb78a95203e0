import pytest
import torch

from saeaudit.errors import NumericsError
from saeaudit.recovery import RowScores, null_space, search
from saeaudit.recovery.search import random_feasible

D, N = 64, 10
GENERATOR = torch.Generator().manual_seed(0)
PROTECTED = torch.randn(12, D, generator=GENERATOR)
FREE = null_space(PROTECTED)
W = torch.randn(N, D, generator=GENERATOR)
DEFICIT = -0.5 - 3 * torch.rand(N, generator=GENERATOR)
GOAL = 0.1


def linear(item):
    """Margin m + w . delta, m < 0; the loss stops at a margin of 0.1."""

    def objective(delta, rows):
        at = item[rows]
        margin = DEFICIT[at] + (delta * W[at]).sum(1)
        return RowScores(torch.relu(GOAL - margin), margin)

    return objective


def curved(item):
    """A saturating margin with a second feature that hurts: no closed form, and the gradient turns."""
    other = W.roll(1, 0)

    def objective(delta, rows):
        at = item[rows]
        gain, harm = (delta * W[at]).sum(1), (delta * other[at]).sum(1)
        margin = DEFICIT[at] + 6 * torch.tanh(gain / 6) - 0.2 * harm.square()
        return RowScores(torch.relu(GOAL - margin), margin)

    return objective


def starts_of(budgets, seed=0):
    return random_feasible(0.01 * budgets, FREE, torch.Generator().manual_seed(seed))


def closed_form(free=FREE):
    """Smallest norm that lifts the margin to 0 in the free subspace: -m / |P w|."""
    return -DEFICIT / free.project(W).norm(dim=1)


def test_a_linear_margin_is_recovered_at_the_closed_form_budget():
    ladder = torch.logspace(-1, 1, 41)  # rungs 12 % apart, around every row's own threshold
    item = torch.arange(N).repeat_interleave(len(ladder))
    exact = closed_form()[item]
    budgets = exact * ladder.repeat(N)
    found = search(linear(item), budgets, FREE, n_steps=60, starts=starts_of(budgets))
    expected = budgets > exact * 1.01
    clear = expected | (budgets < exact * 0.99)
    assert bool((found.success == expected)[clear].all())
    assert bool((found.margin > 0).eq(found.success).all())
    # Below the threshold the best margin is known as well: m + |P w| eps.
    below = ~found.success
    best = DEFICIT[item] + FREE.project(W).norm(dim=1)[item] * budgets
    torch.testing.assert_close(found.margin[below], best[below], rtol=0.02, atol=0.02)


def test_the_threshold_is_met_to_one_per_cent():
    item = torch.arange(N)
    for share, succeeds in ((1.01, True), (0.99, False)):
        budgets = closed_form() * share
        found = search(linear(item), budgets, FREE, n_steps=60, starts=starts_of(budgets))
        assert bool((found.success == succeeds).all())


def test_without_the_constraint_the_threshold_would_be_lower():
    everything = null_space(torch.zeros(1, D))
    budgets = (closed_form(everything) + closed_form()) / 2
    found = search(linear(torch.arange(N)), budgets, FREE, n_steps=60, starts=starts_of(budgets))
    free = search(linear(torch.arange(N)), budgets, everything, n_steps=60, starts=starts_of(budgets))
    assert not bool(found.success.any()) and bool(free.success.all())


@pytest.mark.parametrize("make", [linear, curved])
def test_rows_do_not_see_each_other(make):
    item = torch.arange(N).repeat_interleave(3)
    budgets = closed_form()[item] * torch.tensor([0.5, 1.2, 3.0]).repeat(N)
    starts = starts_of(budgets)
    together = search(make(item), budgets, FREE, n_steps=25, starts=starts)
    order = torch.randperm(len(item), generator=torch.Generator().manual_seed(1))
    permuted = search(make(item[order]), budgets[order], FREE, n_steps=25, starts=starts[order])
    torch.testing.assert_close(permuted.delta, together.delta[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(permuted.margin, together.margin[order], rtol=1e-4, atol=1e-4)
    assert torch.equal(permuted.success, together.success[order])
    for row in range(0, len(item), 4):
        one = slice(row, row + 1)
        alone = search(make(item[one]), budgets[one], FREE, n_steps=25, starts=starts[one])
        torch.testing.assert_close(alone.delta, together.delta[one], rtol=1e-4, atol=1e-4)


def test_the_best_iterate_is_returned_and_not_the_last():
    item = torch.arange(N)
    budgets = 20 * closed_form()
    seen = torch.full((N,), -torch.inf)

    def watched(delta, rows):
        scores = curved(item)(delta, rows)
        seen[rows] = torch.maximum(seen[rows], scores.margin.detach())
        return scores

    found = search(watched, budgets, FREE, n_steps=10, starts=starts_of(budgets))
    assert torch.equal(found.margin, seen)
    torch.testing.assert_close(curved(item)(found.delta, item).margin, found.margin)


def test_a_budget_of_zero_stays_at_zero():
    budgets = torch.tensor([0.0, 100.0, 0.0])
    found = search(linear(torch.tensor([0, 1, 2])), budgets, FREE, n_steps=20, starts=starts_of(budgets))
    assert torch.equal(found.delta[[0, 2]], torch.zeros(2, D))
    torch.testing.assert_close(found.margin[[0, 2]], DEFICIT[[0, 2]])
    assert found.success.tolist() == [False, True, False]


def test_the_search_ends_when_every_row_has_what_it_wants():
    budgets = torch.full((N,), 100.0)
    found = search(linear(torch.arange(N)), budgets, FREE, n_steps=50, starts=starts_of(budgets))
    assert bool(found.success.all()) and found.n_gradients < 10
    assert bool((found.delta.norm(dim=1) < budgets).all())  # a saturated loss does not push to the edge


def test_rows_that_are_settled_are_not_evaluated_again():
    budgets = closed_form() * torch.tensor([0.0, 0.5, 100.0]).repeat(4)[:N]
    asked = []

    def watched(delta, rows):
        asked.append(rows.tolist())
        return linear(torch.arange(N))(delta, rows)

    search(watched, budgets, FREE, n_steps=20, starts=starts_of(budgets))
    never, always = (list(range(i, N, 3)) for i in (0, 1))
    assert asked[0] == list(range(N)) and not any(i in rows for rows in asked[1:] for i in never)
    assert all(i in rows for rows in asked for i in always)
    assert asked[-1] == always  # rows 2, 5, 8 have what they want by then


def test_a_flat_objective_leaves_the_start():
    def flat(delta, rows):
        return RowScores(1 + 0 * delta.sum(1), delta.sum(1) * 0 - 1)

    budgets = torch.ones(N)
    found = search(flat, budgets, FREE, n_steps=5, starts=starts_of(budgets))
    torch.testing.assert_close(found.delta, FREE.project(starts_of(budgets)))
    assert found.n_gradients == 1


def test_numbers_that_are_none_stop_the_search_with_the_row():
    def breaks(delta, rows):
        margin = torch.where(rows == 3, torch.nan, delta.sum(1))
        return RowScores(-margin, margin)

    budgets = torch.ones(N)
    with pytest.raises(NumericsError, match=r"at step 0 in 1 of 10 rows \(first: 3\)") as caught:
        search(breaks, budgets, FREE, n_steps=5, starts=starts_of(budgets))
    assert caught.value.code == "search-non-finite"


def test_starts_outside_are_brought_in_and_progress_counts_steps():
    budgets, seen = torch.ones(N), []
    starts = 50 * torch.randn(N, D, generator=torch.Generator().manual_seed(3))
    found = search(
        curved(torch.arange(N)), budgets, FREE, n_steps=3, starts=starts, progress=lambda *at: seen.append(at)
    )
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert bool((found.delta.norm(dim=1) <= 1 + 1e-6).all())
    assert float((found.delta @ PROTECTED.T).abs().max()) < 1e-4
