"""The ceiling of the paper's score, what chance reaches under it, and the prevalence-free form."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom

from saeaudit.errors import EvidenceError
from saeaudit.metrics import (
    bis_ceiling,
    bis_star,
    latent_permutation,
    n_above_quantile,
    null_best_of,
    paper_bis,
)


def planted(n_rows: int, n_trigger: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A perfect latent with distinct values: every trigger row above every other row."""
    trigger = torch.arange(n_rows) < n_trigger
    return torch.arange(n_rows, 0, -1).float()[:, None], trigger


def oracle_bis(values, trigger, benign, tail):
    """The paper's definition row by row, with numpy's own percentile."""
    cut = np.percentile(values, 100 * (1 - tail))
    active = [v > cut for v in values]
    tp = sum(a and t for a, t in zip(active, trigger, strict=True))
    fp = sum(a and b for a, b in zip(active, benign, strict=True))
    if tp == 0:
        return 0.0
    precision, recall = tp / sum(active), tp / sum(trigger)
    return 2 * precision * recall / (precision + recall) * (1 - fp / sum(benign))


@pytest.mark.parametrize("tail", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("prevalence", [0.2, 0.3, 0.5])
def test_perfect_latent_reaches_exactly_the_ceiling(prevalence, tail):
    # Sizes 20k+1 make the quantile fall on a row, so that the tail is exact; the tail is measured, not assumed.
    n = 2001
    activations, trigger = planted(n, round(prevalence * n))
    result = paper_bis(activations, trigger, tail=tail)
    active = int(result.n_active)
    assert active == n_above_quantile(n, tail=tail)
    assert float(result.bis) == pytest.approx(bis_ceiling(int(trigger.sum()) / n, active / n), abs=1e-12)


def test_rare_triggers_hit_the_ceiling_when_the_spill_is_not_benign():
    activations, trigger = planted(2001, 20)
    benign = torch.arange(2001) > 1000
    result = paper_bis(activations, trigger, benign)
    assert float(result.bis) == pytest.approx(bis_ceiling(20 / 2001, 100 / 2001), abs=1e-12)


def test_the_papers_set_has_125_active_and_a_ceiling_of_04():
    activations, trigger = planted(2500, 500)
    result = paper_bis(activations, trigger)
    assert (int(result.n_active), float(result.precision), float(result.recall)) == (125, 1.0, 0.25)
    assert float(result.bis) == pytest.approx(0.4, abs=1e-12)
    assert bis_ceiling(0.05, 0.05) == 1
    assert bis_ceiling(0.5, 0.05) == pytest.approx(0.1818, abs=1e-4)
    assert bis_ceiling(0.01, 0.05) == pytest.approx(1 / 3)


def test_anything_that_ranks_125_triggers_first_scores_the_same():
    """W2: at the ceiling the score cannot tell a perfect detector from one that misses three quarters."""
    _, trigger = planted(2500, 500)
    values = torch.rand(2500, generator=torch.Generator().manual_seed(0))
    values[:125] += 2
    assert float(paper_bis(values[:, None], trigger).bis) == pytest.approx(0.4, abs=1e-12)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0]), min_size=8, max_size=60),
    st.integers(0, 2**30),
    st.sampled_from([0.05, 0.25]),
)
def test_agrees_with_the_definition_row_by_row(values, seed, tail):
    cell = np.random.default_rng(seed).integers(0, 3, len(values))
    cell[:2] = [0, 1]
    trigger, benign = cell == 0, cell == 1
    result = paper_bis(torch.tensor(values)[:, None], torch.tensor(trigger), torch.tensor(benign), tail=tail)
    assert float(result.bis) == pytest.approx(oracle_bis(values, trigger, benign, tail), abs=1e-9)


def test_silent_and_constant_latents_score_zero_and_the_lowest_index_wins():
    trigger = torch.arange(100) < 20
    columns = torch.stack([torch.zeros(100), torch.full((100,), 0.1), trigger * 1.0, trigger * 2.0], 1)
    columns[:5, 2:] += torch.arange(5)[:, None] + 1.0
    result = paper_bis(columns, trigger)
    assert result.bis[:2].tolist() == [0, 0]
    assert result.best == 2 and result.bis[2] == result.bis[3] > 0


def test_one_class_is_refused():
    with pytest.raises(EvidenceError, match="found 3 trigger and 0 benign") as caught:
        paper_bis(torch.zeros(3, 1), torch.ones(3, dtype=torch.bool))
    assert caught.value.code == "single-class"


def expected_best(n_latents: int) -> float:
    """Mean of the maximum of F independent BIS values whose TP is hypergeometric (all negatives benign)."""
    true_positive = np.arange(126)
    bis = 2 * true_positive / 625 * (1 - (125 - true_positive) / 2000)
    cdf = hypergeom.cdf(true_positive, 2500, 500, 125) ** n_latents
    return float((np.diff(cdf, prepend=0) * bis).sum())


@pytest.mark.parametrize("n_latents", [1, 100, 3840])
def test_null_of_the_best_latent_is_the_hypergeometric_maximum(n_latents):
    draws = null_best_of(n_latents, n_trigger=500, n_benign=2000, n_draws=4000 if n_latents == 1 else 100, seed=1)
    assert float(draws.mean()) == pytest.approx(expected_best(n_latents), abs=0.003)


def test_null_agrees_with_random_columns_through_the_real_score():
    generator = torch.Generator().manual_seed(3)
    _, trigger = planted(2500, 500)
    benign = (torch.arange(2500) >= 500) & (torch.arange(2500) < 1500)
    real = [float(paper_bis(torch.rand(2500, 60, generator=generator), trigger, benign).bis.max()) for _ in range(30)]
    null = null_best_of(60, n_trigger=500, n_benign=1000, n_other=1000, n_draws=400, seed=0)
    assert np.mean(real) == pytest.approx(float(null.mean()), abs=0.004)


def test_w3_the_papers_sizes():
    single = null_best_of(1, n_trigger=500, n_benign=1000, n_other=1000, n_draws=3000, seed=0)
    best = null_best_of(3840, n_trigger=500, n_benign=1000, n_other=1000, n_draws=60, seed=0)
    assert float(single.mean()) == pytest.approx(0.076, abs=0.003)
    assert float(best.mean()) == pytest.approx(0.128, abs=0.003)


def test_w6_scoring_on_the_selection_rows_is_optimistic():
    generator = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(10):
        _, trigger = planted(500, 100)
        fit, fresh = torch.rand(2, 500, 300, generator=generator)
        chosen = paper_bis(fit, trigger).best
        gaps.append(float(paper_bis(fit, trigger).bis[chosen] - paper_bis(fresh, trigger).bis[chosen]))
    assert np.mean(gaps) > 0.05


def test_w8_permuting_latents_says_opposite_things_about_the_same_gap():
    one_good = torch.full((200,), 0.1)
    one_good[0] = 0.4
    poor = torch.full((200,), 0.1)
    many_good = torch.full((200,), 0.4)
    assert latent_permutation(one_good, poor, n_permutations=200, seed=0) == 1.0
    assert latent_permutation(many_good, poor, n_permutations=200, seed=0) < 0.01


def test_star_of_a_perfect_detector_is_its_ceiling_and_chance_is_small():
    for fpr in (0.0, 0.01, 0.3):
        assert bis_star(1.0, fpr).bis == pytest.approx(2 * (1 - fpr) / (2 + fpr))
        assert bis_star(1.0, fpr).ceiling == pytest.approx(2 * (1 - fpr) / (2 + fpr))
    assert bis_star(1.0, 0.01).bis == pytest.approx(0.985, abs=5e-4)
    assert bis_star(0.01, 0.01).bis == pytest.approx(0.0194, abs=5e-5)
    assert bis_star(0.0, 0.5) == (0.0, 0.0, 0.0, pytest.approx(0.4))


@given(st.floats(0, 1), st.floats(0, 1))
def test_star_stays_in_range_and_below_its_ceiling(tpr, fpr):
    star = bis_star(tpr, fpr)
    assert 0 <= star.bis <= star.ceiling + 1e-12 <= 1 + 1e-12
