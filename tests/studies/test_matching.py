"""The search for equal sparsity, on known laws between lambda and L0."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.studies.isolation.matching import MATCHED, match_l0

numbers = st.floats(0.2, 2.0)


@given(power=numbers, scale=st.floats(1.0, 500.0), wanted=st.floats(4.0, 64.0), start=st.floats(0.1, 10.0))
def test_a_power_law_is_matched_in_few_trainings(power, scale, wanted, start):
    found, n = match_l0(lambda w: scale * w**-power, lambda l0: l0, wanted=wanted, start=start, n_trials=40)
    assert abs(found / wanted - 1) <= MATCHED
    # A step of the walk is a factor 4 in lambda; then the law is a line.
    walk = abs(math.log((scale / wanted) ** (1 / power) / start)) / math.log(4)
    assert n <= walk + 6


def test_a_cliff_is_found_by_halving():
    def law(weight):
        return 600.0 * weight**-0.01 if weight < 3.7 else 16.0 * (3.7 / weight) ** 0.1

    found, n = match_l0(law, lambda l0: l0, wanted=16.0, start=1.0, n_trials=12)
    assert abs(found / 16 - 1) <= MATCHED
    assert n < 12


def test_the_last_training_is_returned_when_none_is_near():
    tried = []

    def train(weight):
        tried.append(weight)
        return 500.0

    assert match_l0(train, lambda l0: l0, wanted=16.0, start=2.0, n_trials=3) == (500.0, 3)
    assert tried == pytest.approx([2.0, 8.0, 32.0])


def test_a_search_needs_a_trial():
    with pytest.raises(ValueError, match="n_trials"):
        match_l0(lambda w: w, lambda l0: l0, wanted=1.0, start=1.0, n_trials=0)
