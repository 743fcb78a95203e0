import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from saeaudit.errors import EvidenceError, NumericsError
from saeaudit.metrics import auroc, auroc_columns, auroc_interval, midranks, newcombe_interval


@given(st.integers(3, 40), st.integers(1, 5), st.integers(0, 2**30), st.integers(1, 6))
def test_area_equals_sklearn_with_ties(n, n_columns, seed, n_levels):
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, n_levels, (n, n_columns)).astype(np.float32)
    positive = generator.random(n) < 0.4
    positive[:2] = [True, False]
    expected = [roc_auc_score(positive, column) for column in scores.T]
    found = auroc_columns(torch.from_numpy(scores), torch.from_numpy(positive))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert midranks(torch.from_numpy(scores)).numpy() == pytest.approx(rankdata(scores, axis=0))


def test_constant_scores_have_area_one_half_and_a_real_interval():
    positive = torch.arange(60) < 20
    scores = torch.zeros(60)
    assert auroc(scores, positive) == 0.5
    low, high = auroc_interval(scores, positive, torch.arange(60), n_resamples=200, seed=0)
    assert low < 0.4 and high > 0.6


def test_perfect_separation_has_an_interval_of_positive_width_that_narrows_with_groups():
    positive = torch.arange(60) < 20
    scores = positive.float()
    rows = auroc_interval(scores, positive, torch.arange(60), n_resamples=200, seed=0)
    templates = auroc_interval(scores, positive, torch.arange(60) // 5, n_resamples=200, seed=0)
    assert templates.low < rows.low < rows.high == 1.0


def test_newcombe_solves_its_equation():
    low, high = newcombe_interval(0.8, 30, 50)

    def variance(t):
        half = 39
        return t * (1 - t) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t)) / 1500

    for end in (low, high):
        assert (end - 0.8) ** 2 == pytest.approx(1.959964**2 * variance(end), rel=1e-5)
    assert low < 0.8 < high
    assert newcombe_interval(0.0, 30, 50).low == 0 and newcombe_interval(0.0, 30, 50).high > 0.01


def test_interval_of_duplicated_rows_widens_when_groups_are_known():
    generator = torch.Generator().manual_seed(0)
    positive = torch.arange(50) < 25
    scores = torch.randn(50, generator=generator) + positive
    scores, positive = scores.repeat(8), positive.repeat(8)
    by_row = auroc_interval(scores, positive, torch.arange(400), n_resamples=500, seed=0)
    by_group = auroc_interval(scores, positive, torch.arange(50).repeat(8), n_resamples=500, seed=0)
    assert by_group.half_width > 2 * by_row.half_width


def test_interval_covers_the_true_area():
    generator = torch.Generator().manual_seed(1)
    positive = torch.arange(80) < 40
    truth = 0.760250  # P(N(1,1) > N(0,1)) = Phi(1/sqrt 2)
    covered = 0
    for seed in range(120):
        scores = torch.randn(80, generator=generator) + positive
        low, high = auroc_interval(scores, positive, torch.arange(80), n_resamples=300, seed=seed)
        covered += low <= truth <= high
    assert 105 <= covered <= 119


def test_bad_scores_are_refused():
    with pytest.raises(NumericsError, match="NaN") as caught:
        auroc(torch.tensor([float("nan"), 1.0]), torch.tensor([True, False]))
    assert caught.value.code == "non-finite-scores"
    with pytest.raises(EvidenceError) as single:
        auroc(torch.zeros(2), torch.tensor([False, False]))
    assert single.value.code == "single-class"
