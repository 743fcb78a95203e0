"""Sparsity of a code, and what decoder rows say alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from planted_dictionaries import dense_code, random_dictionary
from saeaudit.dictionaries.code import code_of_dense
from saeaudit.errors import EvidenceError
from saeaudit.metrics import (
    CodeStatistics,
    NormBins,
    auroc,
    delta_norm,
    delta_norm_of_share,
    largest_cosine,
    norm_bins,
    relative_norms,
    wilson,
)


def dense(n=400, n_latents=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rate = torch.logspace(-3, 0, n_latents)
    fires = torch.rand(n, n_latents, generator=generator) < rate
    fires[:, 0] = False
    return fires * (0.5 + torch.rand(n, n_latents, generator=generator))


def statistics_of(f, parts=None, **settings):
    found = CodeStatistics(f.shape[1], n_groups=16, **settings)
    for part in [torch.arange(len(f))] if parts is None else parts:
        found.update(code_of_dense(f[part]), part % 16)
    return found


def test_equals_the_formulas_on_dense_activations():
    f = dense()
    found = statistics_of(f, density_floor=0.05).result(n_resamples=100, seed=0)
    fires = f > 0
    assert found.l0.value == pytest.approx(float(fires.sum(1).double().mean()))
    assert found.activation.value == pytest.approx(float(f[fires].double().mean()))
    torch.testing.assert_close(found.density, fires.double().mean(0))
    for j in (0, 4, 11):
        ends = wilson(int(fires[:, j].sum()), len(f))
        assert (float(found.density_low[j]), float(found.density_high[j])) == pytest.approx(tuple(ends))
    assert math.isnan(found.latent_activation[0])
    assert float(found.latent_activation[11]) == pytest.approx(float(f[:, 11].sum() / fires[:, 11].sum()))
    assert found.dead_share == pytest.approx(float((~fires.any(0)).double().mean())) and found.n_rows == 400
    assert found.l0.interval.low < found.l0.value < found.l0.interval.high


def test_densities_are_counted_in_half_decades_and_silent_latents_left_out():
    f = torch.zeros(1000, 4)
    f[:, 0], f[:100, 1], f[:101, 2] = 1, 1, 1  # densities 1, .1, .101; the last latent is silent
    found = statistics_of(f).result(n_resamples=100, seed=0)
    assert found.histogram == (0,) * 10 + (2, 1)


def test_dead_latents_need_enough_rows_to_be_told_from_rare_ones():
    f = dense(n=999)
    assert math.isnan(statistics_of(f, density_floor=0.01).result(n_resamples=100, seed=0).dead_share)
    assert statistics_of(dense(n=1000), density_floor=0.01).result(n_resamples=100, seed=0).dead_share >= 1 / 12


@given(st.permutations(range(60)), st.lists(st.integers(1, 59), max_size=5))
def test_batches_order_and_merging_do_not_matter(order, cuts):
    f = dense(60, seed=1)
    parts = torch.tensor(order).tensor_split(sorted(set(cuts)))
    one, two = statistics_of(f, parts[::2]), statistics_of(f, parts[1::2])
    one.merge(two)
    whole, found = (s.result(n_resamples=100, seed=0) for s in (statistics_of(f), one))
    for name in ("l0", "activation"):
        a, b = getattr(whole, name), getattr(found, name)
        assert (a.value, *a.interval) == pytest.approx((b.value, *b.interval), rel=1e-9)
    torch.testing.assert_close(whole.latent_activation, found.latent_activation, rtol=1e-9, atol=0, equal_nan=True)
    assert whole.histogram == found.histogram


def test_l0_is_that_of_the_inference_rule():
    dictionary, x = random_dictionary("crosscoder")
    statistics = CodeStatistics(20)
    statistics.update(dictionary.encode(x), torch.zeros(len(x), dtype=torch.int64))
    expected = (dense_code(dictionary.encode(x), 20) > 0).sum(1).double().mean()
    assert statistics.result(n_resamples=100, seed=0).l0.value == pytest.approx(float(expected))


def test_latents_that_live_on_template_tokens_are_seen():
    f, marked = dense(), torch.arange(400) % 5 == 0
    f[~marked, 9] = 0
    halves = CodeStatistics(12, n_groups=1), CodeStatistics(12, n_groups=1)
    for half, found in zip((slice(0, 200), slice(200, 400)), halves, strict=True):
        found.update(code_of_dense(f[half]), torch.zeros(200, dtype=torch.int64), marked[half])
    halves[0].merge(halves[1])
    share = halves[0].result(n_resamples=0, seed=0).template_share
    assert share[9] == 1 and math.isnan(share[0]), "only there; never"
    assert float(share[10]) == pytest.approx(float((f[marked, 10] > 0).sum() / (f[:, 10] > 0).sum()))
    assert bool(statistics_of(f).result(n_resamples=0, seed=0).template_share.isnan().all()), "nothing was marked"


def test_the_published_column_counts_the_other_way():
    """`dec_norm_diff` of the tables of arXiv 2504.02922 is ½(1 + (‖d⁰‖ - ‖d¹‖) / max): 0 is tuned only."""
    base, tuned = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)).double()
    published = (1 + (base - tuned) / torch.maximum(base, tuned)) / 2
    torch.testing.assert_close(1 - delta_norm(torch.stack([base, tuned], 1)), published)


def test_ranks_find_what_bins_miss():
    """Without an L1 penalty the base's row of a tuned-only latent keeps some norm: no latent reaches the last bin."""
    norm = torch.cat([torch.full((5,), 0.87), torch.full((45,), 0.5)])
    assert norm_bins(norm) == NormBins(n=50, base_only=0, shared=45, tuned_only=0)
    assert auroc(norm, torch.arange(50) < 5) == 1


@given(st.floats(0, 5), st.floats(0, 5))
def test_both_relative_norms_say_the_same(base, tuned):
    if base + tuned < 1e-3:
        return
    found = float(delta_norm(torch.tensor([[base, tuned]], dtype=torch.float64)))
    share = torch.tensor([tuned / (base + tuned)], dtype=torch.float64)
    assert 0 <= found <= 1 and float(delta_norm_of_share(share)) == pytest.approx(found, abs=1e-9)


def test_relative_norms_of_a_crosscoder_and_of_what_has_none():
    dictionary, _ = random_dictionary("crosscoder")
    dictionary.coder.scale.copy_(torch.tensor([1.0, 2.0]))
    norms = relative_norms(dictionary)
    base, tuned = dictionary.W_dec.norm(dim=-1).unbind(1)
    torch.testing.assert_close(norms.scaled, delta_norm_of_share(tuned / (base + tuned)))
    torch.testing.assert_close(norms.raw, delta_norm_of_share(2 * tuned / (base + 2 * tuned)))
    assert math.isnan(delta_norm(torch.zeros(1, 2)))
    with pytest.raises(EvidenceError, match="asked of a diff dictionary") as caught:
        relative_norms(random_dictionary("diff")[0])
    assert caught.value.code == "undefined-metric"


def test_copies_of_a_decoder_row_are_seen(monkeypatch):
    W_dec = torch.randn(30, 2, 5, generator=torch.Generator().manual_seed(0))
    W_dec[7] = 3 * W_dec[2]
    rows = normalize(W_dec.flatten(1), dim=1)
    expected = (rows @ rows.T - 2 * torch.eye(30)).amax(1)
    torch.testing.assert_close(largest_cosine(W_dec), expected)
    monkeypatch.setattr("saeaudit.metrics.decoder_rows._CHUNK_BYTES", 4 * 30 * 7)
    torch.testing.assert_close(largest_cosine(W_dec), expected)
    assert float(largest_cosine(W_dec)[2]) == pytest.approx(1)
    assert math.isnan(largest_cosine(W_dec[:1]))
