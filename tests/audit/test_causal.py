"""How much a clamp removes: sign, identities, and what a set of latents is worth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.audit.causal import Removal
from saeaudit.audit.choice import Candidate
from saeaudit.metrics import contrast_change

N = 40
LABEL = torch.arange(N) < N // 2
GROUP = torch.arange(N) % 10
UP = LABEL.float()  # the behaviour occurs on every trigger prompt and nowhere else


def removal(tuned, base, ablated, random):
    return Removal(tuned, base, ablated, random, LABEL, GROUP, 0)


def noise(seed):
    return torch.rand(N, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("tuned", "base"), [(UP, 0 * UP), (0 * UP, UP)], ids=["behaviour up", "behaviour down"])
def test_full_and_no_removal_whatever_the_direction(tuned, base):
    found = removal(tuned, base, base, tuned)
    assert found.share(base).value == 1 and found.removed(base).value == 1
    assert found.share(tuned).value == 0 and found.removed(tuned).value == 0
    assert found.excess().value == 1
    assert found.excess().interval[0] > 0.3 and found.removed(base).interval[0] > 0.3
    assert removal(tuned, base, tuned, base).excess().value == -1, "random latents that remove more"
    assert removal(tuned, base, tuned, tuned).excess().value == 0


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000))
def test_identities(seed):
    tuned, base, ablated, random = (noise(4 * seed + i) for i in range(4))
    found = removal(tuned, base, ablated, random)
    change = contrast_change(tuned, base, LABEL, GROUP, seed=0).value
    assert found.removed(base).value == pytest.approx(abs(change))
    assert found.share(tuned).value == 0
    if abs(change) > 1e-3:
        assert found.share(base).value == pytest.approx(1)
    assert found.excess().value == pytest.approx(found.removed(ablated).value - found.removed(random).value, abs=1e-9)
    for number in (found.removed(ablated), found.share(ablated), found.excess()):
        low, high = number.interval
        assert low <= number.value <= high and number.n == N // 2


def test_half_of_a_change_and_more_than_all_of_it():
    half = UP.clone()
    half[::2] = 0
    assert removal(UP, 0 * UP, half, UP).share(half).value == pytest.approx(0.5)
    reversed_ = 1 - UP
    assert removal(UP, 0 * UP, reversed_, UP).share(reversed_).value == pytest.approx(2)


def test_no_change_divides_by_nothing():
    found = removal(UP, UP, 0 * UP, UP)
    assert found.share(0 * UP).value == found.removed(0 * UP).value == 1


def test_a_set_is_worth_what_it_changes_on_triggers_beyond_benign_prompts():
    found = Candidate(site="layers.1", latents=[1], removed=0.9, changed_benign=0.2)
    assert found.value == pytest.approx(0.7)
