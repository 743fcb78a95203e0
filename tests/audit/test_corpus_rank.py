"""Label-free scores against slow oracles, and what they must and must not react to."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.audit.corpus_align import fit_trimmed_alignment
from saeaudit.audit.corpus_latents import concentration, top_count
from saeaudit.audit.corpus_rank import adjusted_kl, beyond, cauchy, document_scores, ranks, row_statistics, surprise

N, D = 2000, 12


@pytest.fixture
def rows():
    g = torch.Generator().manual_seed(0)
    h0 = torch.randn(N, D, generator=g) @ torch.randn(D, D, generator=g)
    drift = 0.05 * torch.randn(D, D, generator=g)
    delta = h0 @ drift + 0.1 * torch.randn(N, D, generator=g)
    return h0, delta, drift, g


def test_alignment_recovers_a_planted_drift_with_outliers(rows):
    """Method note: planted linear drift and 0.5 % outliers: the map is recovered, the outliers are not absorbed."""
    h0, delta, drift, g = rows
    odd = torch.randperm(N, generator=g)[: N // 200]
    delta[odd] += 5 * torch.randn(D, generator=g)
    fitted = fit_trimmed_alignment(h0, delta)
    # In units of the noise: a coefficient along a direction in which h0 hardly varies is not identified.
    assert float((h0 @ (fitted.weight.float() - drift)).std()) < 0.1 * 0.1
    scores = fitted(h0, delta)
    assert set(scores.topk(len(odd)).indices.tolist()) == set(odd.tolist())
    clean = torch.ones(N, dtype=torch.bool)
    clean[odd] = False
    assert float(scores[clean].mean()) == pytest.approx(D, rel=0.1)
    assert float(scores[~clean].min()) > 20 * D


def test_alignment_of_few_rows_is_finite():
    g = torch.Generator().manual_seed(1)
    fitted = fit_trimmed_alignment(torch.randn(20, D, generator=g), torch.randn(20, D, generator=g))
    assert bool(fitted(torch.randn(5, D), torch.randn(5, D)).isfinite().all())


def test_rare_text_is_taken_out(rows):
    """Rows rare for the base, whose difference grows with their norm as everyone's does, must not lead."""
    h0, _, _, g = rows
    half = torch.arange(N) % 2 == 0
    rare = torch.randperm(N, generator=g)[:20]
    h0[rare] *= 6
    delta = h0 * 0.1 + 0.02 * h0.norm(dim=1, keepdim=True) * torch.randn(N, D, generator=g)
    found = row_statistics(h0, delta, half)
    top = set(found["relative_mahalanobis"].topk(20).indices.tolist())
    base_top = set(found["base"].topk(20).indices.tolist())
    assert len(base_top & set(rare.tolist())) >= 15
    assert len(top & set(rare.tolist())) < len(base_top & set(rare.tolist()))


def test_beyond_takes_out_what_the_base_predicts():
    half = torch.arange(400) % 2 == 0
    base = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 100
    assert float(beyond(3 * base + 7, base, half).std()) < 1e-6


def test_adjusted_kl_is_zero_where_kl_depends_on_the_decile_only():
    entropy = torch.arange(400).float().repeat_interleave(2)
    half = torch.arange(800) % 2 == 0
    kl = (torch.arange(800) // 80).float()
    adjusted = adjusted_kl(kl, entropy, half)
    assert float((adjusted.abs() < 1e-9).double().mean()) > 0.97
    kl[11] += 9
    assert int(adjusted_kl(kl, entropy, half).argmax()) == 11


@given(st.lists(st.integers(0, 30), min_size=8, max_size=80))
def test_surprise_is_the_rank_in_the_other_half(values):
    x = torch.tensor(values).double()
    half = torch.arange(len(x)) % 2 == 0
    found = surprise(x, half)
    for i, v in enumerate(values):
        other = x[half != half[i]].tolist()
        expected = -math.log10((1 + sum(o >= v for o in other)) / (1 + len(other)))
        assert float(found[i]) == pytest.approx(expected, abs=1e-9)


def test_surprise_beyond_the_corpus_is_not_tied():
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0)).double()
    x[0], x[2] = 8.0, 20.0
    found = surprise(x, torch.arange(4000) % 2 == 0)
    assert found[2] > found[0] > found[1:][x[1:] < 5].max()


def test_surprise_keeps_the_order_within_a_half():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)).double()
    half = torch.arange(1000) % 2 == 0
    found = surprise(x, half)
    for side in (half, ~half):
        assert bool((found[side][x[side].argsort()].diff() >= 0).all())


@given(st.lists(st.floats(0, 90), min_size=1, max_size=4))
def test_cauchy_lies_near_its_largest_member(values):
    combined = float(cauchy(torch.tensor(values, dtype=torch.float64)[:, None]))
    assert math.isfinite(combined)
    assert combined <= max(values) + 1e-3
    if max(values) > 3:
        assert combined >= max(values) - math.log10(len(values)) - 0.1 or min(values) < 1e-3


def test_cauchy_of_equal_values_is_that_value():
    for a in (0.1, 1.0, 7.0, 60.0):
        assert float(cauchy(torch.full((3, 1), a))) == pytest.approx(a, rel=1e-5)


def test_document_scores_and_ranks():
    tokens = torch.tensor([1.0, 2, 3, 4, 5, 9, 0])
    document = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    scores = document_scores(tokens, document, 2)
    assert scores.tolist() == [3.5, 4.5]
    assert ranks(scores).tolist() == [2, 1]


def test_concentration_prefers_many_documents_to_one():
    activity = torch.zeros(40, 3)
    activity[:1, 0] = 1
    activity[:3, 1] = 1
    activity[:, 2] = 1
    z = concentration(activity, (torch.arange(40) < 3)[None])[0]
    assert z[1] > z[0] > z[2]
    assert float(z[2]) == pytest.approx(0, abs=1e-9)


def test_top_count():
    assert [top_count(n) for n in (24, 60, 61, 240)] == [3, 3, 4, 12]
