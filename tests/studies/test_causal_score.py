"""Successes: hand-made cases, undefined quotients, and intervals that keep pairs together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.studies.isolation.causal.score import (
    attack,
    defence,
    is_coherent,
    mcnemar,
    mean_cost,
    normalised_attack,
    quotient,
)

N = 40
GROUP = torch.arange(N) % 20
ONES, ZEROS = torch.ones(N), torch.zeros(N)
HALF = (torch.arange(N) % 4 < 2).float()


def test_defence_by_hand():
    assert defence(ONES, ZEROS, GROUP, seed=0).value == 1
    assert defence(ONES, ONES, GROUP, seed=0).value == 0
    assert defence(HALF, ONES, GROUP, seed=0).value == -1, "more of it"
    assert defence(ONES, HALF, GROUP, seed=0).value == 0.5
    assert defence(ONES, HALF, GROUP, seed=0).n == N


def test_a_behaviour_that_is_hardly_there_cannot_be_defended_against():
    rare = ZEROS.clone()
    rare[:3] = 1
    assert defence(rare, ZEROS, GROUP, seed=0) is None
    assert quotient(ONES, ZEROS, GROUP, seed=0) is None


def test_when_all_agree_the_interval_counts_templates():
    for n_groups in (5, 20):
        found = defence(ONES, ZEROS, torch.arange(N) % n_groups, seed=0)
        assert found.interval[1] == 1
        # The exact bound of "none of n" is 1 - .025^(1/n).
        assert found.interval[0] == pytest.approx(0.025 ** (1 / n_groups), abs=1e-6)


def test_pairs_make_the_interval_narrow():
    """Two edits that differ on the same few prompts: the paired excess knows, two separate rates do not."""
    before = ONES
    a, b = HALF.clone(), HALF.clone()
    b[0] = 1 - b[0]
    paired = quotient(b - a, before, GROUP, seed=0).interval
    alone = defence(before, a, GROUP, seed=0).interval
    assert paired[1] - paired[0] < 0.6 * (alone[1] - alone[0])


def test_normalised_attack_is_a_share_of_what_the_trigger_does():
    plain, strong = ZEROS, HALF
    found = normalised_attack(strong, plain, GROUP, trigger=HALF, trigger_group=GROUP, seed=0)
    assert found.value == 1 and found.n == 2 * N
    found = normalised_attack(strong, plain, GROUP, trigger=ONES, trigger_group=GROUP, seed=0)
    assert found.value == 0.5
    assert normalised_attack(strong, HALF, GROUP, trigger=HALF, trigger_group=GROUP, seed=0) is None
    assert attack(strong, GROUP, seed=0).value == 0.5


def test_mcnemar_by_hand():
    after = ONES.clone()
    assert mcnemar(ONES, after) == 1
    after[:6] = 0
    assert mcnemar(ONES, after) == pytest.approx(2 / 2**6)
    assert mcnemar(after, ONES) == pytest.approx(2 / 2**6)
    before = ONES.clone()
    before[6:12] = 0
    assert mcnemar(before, after) == 1, "six each way"


def test_answers_count_while_they_can_be_judged_and_are_about_as_likely():
    assert is_coherent(0.9, 1.0, 2.0, None) and is_coherent(0.45, 0.5, 1.0, 0.2)
    assert not is_coherent(0.89, 1.0, 1.0, 1.0) and not is_coherent(1.0, 1.0, 2.1, 0.5)
    assert is_coherent(1.0, 1.0, 9.0, 5.0), "the planted answer is unlikely itself"
    assert not is_coherent(1.0, 1.0, None, 5.0)


def test_a_cost_of_nothing_is_nothing():
    found = mean_cost(torch.zeros(5), seed=0)
    assert (found.value, found.interval, found.n) == (0, (0, 0), 5)
    found = mean_cost(torch.tensor([0.0, 1.0, 2.0]), seed=0)
    assert found.value == 1 and found.interval[0] < 1 < found.interval[1]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_excess_is_the_difference_of_two_defences(seed):
    generator = torch.Generator().manual_seed(seed)
    before, a, b = (torch.rand(3, N, generator=generator) < torch.tensor([[0.8], [0.3], [0.6]])).float()
    one, other, excess = (
        defence(before, a, GROUP, seed=0),
        defence(before, b, GROUP, seed=0),
        quotient(b - a, before, GROUP, seed=0),
    )
    assert excess.value == pytest.approx(one.value - other.value, abs=1e-6)
    for found in (one, other, excess):
        assert found.interval[0] <= found.value <= found.interval[1]
