"""The paper's experiment on planted rows: who finds the plant, what a dead dictionary prints, what folds take away."""

from dataclasses import replace

import pytest
import torch

from saeaudit.detection import PairedRows, group_folds
from saeaudit.errors import EvidenceError, NumericsError
from saeaudit.metrics import bis_resamples, paper_bis, resample_weights
from saeaudit.studies.isolation.paper import cells, dictionaries
from saeaudit.studies.isolation.paper.cells import (
    benign_rows,
    paper_cell,
    paper_permutation,
    paper_table,
    score_latents,
    variance_ratio,
)
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.dictionaries import fit_paper_dictionary, paper_recipe
from saeaudit.studies.isolation.paper.published import PUBLISHED, is_reproduced, published_cell
from saeaudit.studies.isolation.paper.refit import refit

CONFIG = PaperConfig(epochs=5, n_resamples=60, n_permutations=200, n_null=20, n_folds=3)
N, D = 500, 16


def planted(strength=2.0, *, n=N, d=D, seed=0):
    """A fifth trigger rows, whose delta has `strength` added to one coordinate; groups of five rows, one of each."""
    generator = torch.Generator().manual_seed(seed)
    klass = [("trigger", "benign", "benign", "other", "other")[i % 5] for i in range(n)]
    label = torch.tensor([name == "trigger" for name in klass])
    h0 = 3 * torch.randn(n, d, generator=generator) + torch.randn(d, generator=generator)
    delta = 0.3 * torch.randn(n, d, generator=generator)
    delta[label, 0] += strength
    year = {"trigger": "2024", "benign": "2023", "other": ""}
    text = [f"{year[name]} {'x' * i}" for i, name in enumerate(klass)]
    return PairedRows(h0, delta, text, label, klass, torch.arange(n) // 5)


@pytest.mark.parametrize(
    "method", ["diff-32x", "diff-4x", "diff-32x-matched", "mean-difference", "difference-norm", "random-directions"]
)
def test_whatever_reads_the_difference_reaches_the_ceiling(method):
    cell = paper_cell(planted(), method, CONFIG)
    assert (cell.status, cell.bis) == ("ok", pytest.approx(cell.ceiling))
    assert cell.ceiling == pytest.approx(0.4)
    assert (cell.precision, cell.recall, cell.benign_fpr) == (1, pytest.approx(0.25), 0)
    assert 1 <= cell.n_near_ceiling <= max(1, cell.n_latents // 2)


@pytest.mark.parametrize("method", ["sae-4x-base", "random-directions-base"])
def test_what_reads_the_base_alone_stays_at_chance(method):
    cell = paper_cell(planted(), method, CONFIG)
    assert cell.bis == pytest.approx(cell.by_chance, abs=0.08)


def test_counting_years_scores_nothing_and_its_share_of_the_text_nearly_everything():
    """A yes-or-no score has no row above its own 95th percentile, however perfect it is."""
    rows = planted(0.0)
    count, share = (paper_cell(rows, method, CONFIG) for method in ("year-count", "year-share"))
    assert (count.status, count.bis) == ("constant", None)
    assert share.bis == pytest.approx(0.4)


def test_without_a_plant_the_best_latent_is_near_the_best_of_chance():
    cell = paper_cell(planted(0.0), "diff-32x", CONFIG)
    assert cell.bis == pytest.approx(cell.by_chance, abs=0.06)
    assert cell.bis > 2 * paper_cell(planted(0.0), "difference-norm", CONFIG).by_chance, "one latent scores far less"


def test_the_interval_keeps_the_latent_and_finds_its_threshold_anew():
    rows = planted(0.5)
    cell = paper_cell(rows, "mean-difference", CONFIG)
    column = mean_difference_score(rows)
    weights = resample_weights(torch.arange(N), n_resamples=60, seed=CONFIG.seed)
    drawn = bis_resamples(column[:, None], rows.label, benign_rows(rows), weights=weights)[:, 0]
    assert cell.interval.low == pytest.approx(float(drawn.quantile(0.025)))
    assert cell.interval.high == pytest.approx(float(drawn.quantile(0.975)))
    assert cell.interval.low < cell.bis < cell.interval.high


def mean_difference_score(rows):
    direction = rows.delta[rows.label].mean(0) - rows.delta[~rows.label].mean(0)
    return rows.delta.double() @ direction.double()


def test_many_latents_are_scored_in_parts(monkeypatch):
    rows = planted()
    activations = torch.randn(N, 70, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(cells, "_CHUNK_BYTES", 8 * N * 16)
    found = score_latents(activations, rows.label, benign_rows(rows), tail=0.05)
    whole = paper_bis(activations, rows.label, benign_rows(rows))
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))


@pytest.mark.parametrize(("bias", "status", "n_alive"), [(-1.0, "dead", 0), (1.0, "constant", 32)])
def test_a_dead_crosscoder_prints_that_it_is_dead_and_no_score(monkeypatch, bias, status, n_alive):
    def kill(dictionary, batches, config):
        with torch.no_grad():
            dictionary.coder.W_enc.zero_()
            dictionary.coder.b_enc.fill_(bias)

    monkeypatch.setattr(dictionaries, "train", kill)
    cell = paper_cell(planted(), "crosscoder-32x", CONFIG)
    assert (cell.status, cell.n_alive) == (status, n_alive)
    assert (cell.bis, cell.precision, cell.recall, cell.interval, cell.latent) == (None,) * 5


def test_equal_models_are_refused():
    rows = planted()
    same = replace(rows, delta=torch.zeros_like(rows.delta))
    assert variance_ratio(same) == 0
    with pytest.raises(NumericsError, match="identical"):
        paper_cell(same, "diff-4x", CONFIG)


def test_the_permutation_says_opposite_things_about_the_same_gap():
    cells = paper_table(planted(), CONFIG, methods=("diff-4x", "random-directions"))
    first, second = (replace(cell, scores=torch.full((200,), 0.1)) for cell in cells.values())
    one_good = first.scores.clone()
    one_good[7] = 0.4
    assert paper_permutation(replace(first, scores=one_good), second, CONFIG) == 1
    assert paper_permutation(replace(first, scores=torch.full((200,), 0.4)), second, CONFIG) < 0.05


@pytest.mark.parametrize(
    ("method", "norm"), [("diff-32x", (1 / 32) ** 0.5), ("diff-4x", 0.5), ("diff-32x-corrected", 1)]
)
def test_rows_have_the_norm_of_the_axis_that_is_normalised(method, norm):
    rows = fit_paper_dictionary(planted(), method, CONFIG).dictionary.W_dec
    assert float(rows.square().sum(1).mean().sqrt()) == pytest.approx(norm, rel=1e-4)
    spread = float(rows.norm(dim=1).std())
    assert (spread < 1e-5) == (method == "diff-32x-corrected")


@pytest.mark.parametrize("method", ["diff-32x", "diff-4x", "diff-32x-corrected", "diff-32x-matched", "sae-4x-base"])
def test_the_penalty_is_that_of_the_mean_activation_at_every_width(method):
    """1e-4 times the mean over latents is 1e-4 d/F times the sum over latents, divided by the width d."""
    config = paper_recipe(method, d_model=D, n_steps=1).dictionary
    assert config.penalty.weight == pytest.approx(1e-4 * D / config.n_latents)


def test_the_corrected_crosscoder_is_ours_and_both_read_both_models():
    corrected = paper_recipe("crosscoder-32x-corrected", d_model=D, n_steps=1)
    assert corrected.scaled and corrected.dictionary.published is None
    assert not paper_recipe("crosscoder-32x", d_model=D, n_steps=1).scaled
    rows = planted()
    crosscoder = fit_paper_dictionary(rows, "crosscoder-32x", CONFIG)
    without = replace(rows, delta=torch.zeros_like(rows.delta))
    assert not torch.equal(crosscoder.activations(rows), crosscoder.activations(without))


def test_the_matched_dictionary_has_the_crosscoders_sparsity_and_the_published_one_is_dense():
    cells = paper_table(planted(), CONFIG, methods=("diff-32x", "diff-32x-matched", "crosscoder-32x"))
    dense, matched, crosscoder = cells.values()
    assert dense.l0 > 0.3 * dense.n_latents
    assert matched.l0 <= 32 and crosscoder.l0 <= 32


def test_refit_on_noise_is_optimistic_and_other_rows_score_lower():
    found = refit(planted(0.0), "random-directions", CONFIG)
    assert found.optimism > 0.05 and found.fresh < found.fitted
    assert found.n_folds == 3 and found.n_rows == N


def test_refit_judges_other_rows_at_the_threshold_of_those_that_made_it():
    """By hand, for a score that is not fitted: two folds whose norms differ in size share no threshold."""
    rows, config = planted(1.0), CONFIG.model_copy(update={"n_folds": 2})
    folds = group_folds(rows.group, rows.label, n_folds=2, seed=config.seed)
    scaled = replace(rows, delta=torch.where(folds[:, None] == 0, 3.0, 1.0) * rows.delta)
    norm, active = scaled.delta.norm(dim=1).double(), torch.zeros(N, dtype=torch.bool)
    for fold in (0, 1):
        active |= (folds == fold) & (norm > norm[folds != fold].quantile(0.95))
    f1 = 2 * float((active & rows.label).sum()) / (int(active.sum()) + int(rows.label.sum()))
    expected = f1 * (1 - float(active[benign_rows(rows)].double().mean()))
    assert int(active.sum()) > 100, "nearly all of the larger fold is above the smaller one's threshold"
    assert refit(scaled, "difference-norm", config).fresh == pytest.approx(expected)


def test_refit_keeps_a_real_direction():
    found = refit(planted(3.0), "diff-4x", CONFIG)
    assert found.fresh == pytest.approx(0.4, abs=0.08)
    assert abs(found.optimism) < 0.08


def test_refit_needs_templates():
    one = replace(planted(), group=torch.zeros(N, dtype=torch.long))
    with pytest.raises(EvidenceError) as caught:
        refit(one, "mean-difference", CONFIG)
    assert caught.value.code == "too-few-groups"


def test_published_values_stand_beside_ours():
    assert published_cell("diff-32x", 13, 30).layer == 14
    assert published_cell("crosscoder-32x", 24, 30).bis == 0.235
    assert published_cell("year-share", 13, 30) is None
    for cell in (cell for row in PUBLISHED.values() for cell in row if cell.precision is not None):
        f1 = 2 * cell.precision * cell.recall / (cell.precision + cell.recall)
        assert f1 * (1 - cell.benign_fpr) == pytest.approx(cell.bis, abs=1e-3), "the score of its parts"


def test_reproduced_means_three_of_four_layers():
    good = paper_cell(planted(), "mean-difference", CONFIG)
    poor, none = replace(good, bis=0.2), replace(good, bis=None)
    assert is_reproduced([good, good, good, poor])
    assert not is_reproduced([good, good, poor, none])
    assert not is_reproduced([])
