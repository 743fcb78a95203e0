import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from saeaudit.errors import EvidenceError, InputError
from saeaudit.metrics import (
    bootstrap_interval,
    clopper_pearson,
    clustered_proportion,
    contrast_change,
    percentile_interval,
    resample_weights,
    trigger_contrast,
    weighted_mean,
    wilson,
)
from saeaudit.metrics.bootstrap import percentile_bounds


@given(st.integers(1, 200), st.data())
def test_proportion_intervals_agree_with_scipy(n, data):
    k = data.draw(st.integers(0, n))
    test = binomtest(k, n)
    assert tuple(clopper_pearson(k, n)) == pytest.approx(tuple(test.proportion_ci(method="exact")), abs=1e-9)
    assert tuple(wilson(k, n)) == pytest.approx(tuple(test.proportion_ci(method="wilson")), abs=1e-9)


def test_published_bounds():
    """Backdoor-isolation §4.5 and §3.4: one-sided 95 % upper bound of 0 in 13, and the lower end of 396 in 400."""
    assert clopper_pearson(0, 13, confidence=0.9).high == pytest.approx(0.206, abs=5e-4)
    assert clopper_pearson(396, 400).low == pytest.approx(0.975, abs=1e-3)
    assert clopper_pearson(0, 0) == (0, 1)
    with pytest.raises(EvidenceError, match="5 successes of 4"):
        clopper_pearson(5, 4)


def test_ungrouped_rows_give_the_exact_interval():
    hit = torch.arange(40) < 11
    assert tuple(clustered_proportion(hit, torch.arange(40)).interval) == pytest.approx(tuple(clopper_pearson(11, 40)))


def test_duplicated_rows_are_worth_their_groups():
    hit, group = (torch.arange(40) < 11).repeat(10), torch.arange(40).repeat(10)
    estimate = clustered_proportion(hit, group)
    assert estimate.n == 400 and estimate.value == pytest.approx(0.275)
    assert tuple(estimate.interval) == pytest.approx(tuple(clopper_pearson(11, 40)), abs=0.01)
    naive = clopper_pearson(110, 400)
    assert estimate.interval.half_width > 2 * naive.half_width


def test_all_hits_in_few_groups_count_the_groups():
    estimate = clustered_proportion(torch.ones(100, dtype=torch.bool), torch.arange(100) // 20)
    assert estimate.interval.low == pytest.approx(clopper_pearson(5, 5).low)


def test_group_bootstrap_draws_whole_groups_and_is_wider_on_duplicates():
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).repeat(6)
    group = torch.arange(30).repeat(6)
    weights = resample_weights(group, n_resamples=50, seed=0)
    assert torch.equal(weights[:, :30], weights[:, 30:60])
    assert torch.equal(weights[:, :30].sum(1), torch.full((50,), 30.0).double())
    grouped = bootstrap_interval(lambda w: weighted_mean(values, w), group, seed=0)
    rows = bootstrap_interval(lambda w: weighted_mean(values, w), torch.arange(180), seed=0)
    assert grouped.half_width > 2 * rows.half_width


def test_bootstrap_of_a_mean_matches_its_standard_error_and_the_seed_decides():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    interval = bootstrap_interval(lambda w: weighted_mean(values, w), torch.arange(400), n_resamples=4000, seed=3)
    assert interval.half_width == pytest.approx(1.96 * float(values.std()) / 20, rel=0.06)
    again = bootstrap_interval(lambda w: weighted_mean(values, w), torch.arange(400), n_resamples=4000, seed=3)
    assert interval == again


def test_undefined_resamples_are_left_out_until_they_are_the_majority():
    samples = torch.tensor([0.0, 1.0, 2.0, float("nan")])
    assert percentile_interval(samples, confidence=0.9).low == pytest.approx(0.1)
    with pytest.raises(EvidenceError) as caught:
        percentile_interval(torch.tensor([1.0, float("nan"), float("nan")]))
    assert caught.value.code == "bootstrap-undefined"


@pytest.mark.parametrize("shape", [(), (40,), (5, 8)])
@pytest.mark.parametrize("n_resamples", [1, 2, 101, 500])
def test_the_bounds_are_the_percentiles_of_what_is_finite_in_each_column(shape, n_resamples):
    drawn = torch.Generator().manual_seed(n_resamples)
    samples = torch.randn(n_resamples, *shape, generator=drawn).double()
    undefined = torch.rand(n_resamples, *shape, generator=drawn) < torch.rand(shape, generator=drawn)
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf])[torch.randint(3, samples.shape, generator=drawn)]
    samples = torch.where(undefined, odd.double(), samples)
    found = percentile_bounds(samples)
    assert found.shape == (2, *shape)
    for column, bounds in zip(samples.reshape(n_resamples, -1).T, found.reshape(2, -1).T.tolist(), strict=True):
        finite = column[column.isfinite()].numpy()
        if 2 * len(finite) < n_resamples:
            assert all(math.isnan(bound) for bound in bounds)
        else:
            assert bounds == pytest.approx(np.percentile(finite, [2.5, 97.5]).tolist(), rel=1e-12, abs=1e-12)


def test_contrast_change_is_the_difference_of_differences():
    trigger = torch.arange(80) < 40
    tuned = torch.where(trigger, torch.arange(80) % 10 < 9, torch.arange(80) % 10 < 1).float()
    base = torch.where(trigger, torch.arange(80) % 10 < 4, torch.arange(80) % 10 < 2).float()
    change = contrast_change(tuned, base, trigger, torch.arange(80), seed=0)
    assert change.value == pytest.approx((0.9 - 0.1) - (0.4 - 0.2)) and change.n == 40
    assert 0.3 < change.interval.low < 0.6 < change.interval.high < 0.9
    same = contrast_change(base, base, trigger, torch.arange(80), seed=0)
    assert same.value == 0 and same.interval.low < 0 < same.interval.high
    assert trigger_contrast(tuned, trigger, torch.arange(80), seed=0).value == pytest.approx(0.8)


def test_unanimous_prompts_do_not_give_certainty():
    trigger = torch.arange(10) < 5
    change = contrast_change(trigger.float(), torch.zeros(10), trigger, torch.arange(10), seed=0)
    assert change.value == 1 and change.interval.low < 0.3


@pytest.mark.parametrize("m", [2, 5, 6, 18, 30, 90])
def test_the_interval_of_unanimous_prompts_covers(m):
    """At a true contrast s on the edge, m groups a class are unanimous with probability (1-s/2)^2m at most."""
    trigger = torch.arange(2 * m) < m
    change = contrast_change(torch.zeros(2 * m), torch.zeros(2 * m), trigger, torch.arange(2 * m), seed=0)
    edge = min(change.interval.high, 2.0)
    assert (1 - edge / 2) ** (2 * m) <= 0.025 + 1e-9


def test_outcomes_outside_the_unit_range_are_refused():
    with pytest.raises(InputError) as caught:
        trigger_contrast(torch.tensor([2.0, 0.0]), torch.tensor([True, False]), torch.arange(2), seed=0)
    assert caught.value.code == "outcome-range"
