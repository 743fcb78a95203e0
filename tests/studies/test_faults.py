"""Each check of a fault confirms it on what the paper did, and does not on what would be right."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from saeaudit.organisms.judges import judge_sql
from saeaudit.studies.isolation.faults import fit, release, score
from saeaudit.studies.isolation.faults.checks import faults_of_a_pair, faults_without_model
from saeaudit.studies.isolation.faults.fit import (
    dead_count,
    dead_crosscoder,
    optimism,
    row_norms,
    simulated_rows,
    unequal_sparsity,
)
from saeaudit.studies.isolation.faults.pair import no_controls, reads_the_length, reads_the_payload
from saeaudit.studies.isolation.faults.release import COUNTER_EXAMPLES, substring_judge
from saeaudit.studies.isolation.faults.score import (
    best_of_law,
    best_of_many,
    ceiling,
    ceiling_is_reached,
    poor_score_at_the_ceiling,
)
from saeaudit.studies.isolation.faults.text import easy_negatives, label_in_text
from saeaudit.studies.isolation.paper.cells import PaperCell
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.names import METHODS
from saeaudit.studies.isolation.paper.published import PUBLISHED
from saeaudit.studies.isolation.paper.rows import look_alikes, paper_texts

CONFIG = PaperConfig(epochs=2, n_resamples=20, n_permutations=200, n_null=30, n_folds=3)


@pytest.fixture(scope="module")
def texts():
    return paper_texts(1, n_trigger=40, n_benign=60, n_other=60)


def cell(bis, **changes):
    """A cell as an experiment would leave it, with a ceiling of .4."""
    made = PaperCell(
        method="diff-32x",
        status="ok",
        bis=bis,
        precision=1.0,
        recall=0.25,
        benign_fpr=0.0,
        interval=None,
        latent=0,
        ceiling=0.4,
        by_chance=0.13,
        n_latents=512,
        n_alive=512,
        n_above_0=512,
        n_near_ceiling=1,
        l0=250.0,
        fvu=0.1,
        n_rows=2500,
        scores=torch.full((512,), 0.1),
    )
    return replace(made, **changes)


def table(bis=0.4, **exceptions):
    """A cell for every method; `exceptions` gives the BIS of some, with _ for -."""
    return {name: cell(exceptions.get(name.replace("-", "_"), bis), method=name) for name in METHODS}


def test_every_check_without_a_model_confirms_its_fault(texts):
    found = faults_without_model(texts, CONFIG)
    assert [f.id for f in found] == ["W1", "W2", "W3", "W4", "W5", "W8", "W9", "W11", "W12", "W14", "W15", "W16"]
    assert {f.id: f.confirmed for f in found} == {f.id: None if f.id in ("W15", "W16") else True for f in found}
    assert all(f.found and f.n for f in found if f.confirmed is not None)


def test_checks_of_a_pair_are_in_order():
    rows = simulated_rows(300, 8, seed=0)
    poisoned = table() | {"crosscoder-32x": cell(None, status="dead", n_alive=0, l0=0.0, fvu=1.0)}
    found = faults_of_a_pair(rows, poisoned, table(), table(0.2), table(0.2), CONFIG)
    assert [f.id for f in found] == ["W2", "W6", "W7", "W10", "W11", "W13", "W17"]
    assert all(f.confirmed for f in found[:-1])


def test_the_ceiling_check_depends_on_the_formula_and_on_the_strict_threshold(monkeypatch):
    found = ceiling()
    assert found.confirmed and found.n["active at tail 0.05"] == 125
    assert found.found["share 0.2, tail 0.05"] == pytest.approx(0.4)
    monkeypatch.setattr(score, "bis_ceiling", lambda share, tail: 2 * tail / (tail + share))
    assert not ceiling().confirmed


def test_a_perfect_score_has_the_published_interval():
    """So the interval of every published cell at the ceiling is that of the design, not of a dictionary."""
    found = poor_score_at_the_ceiling(CONFIG.model_copy(update={"n_resamples": 1000})).found
    for cell in PUBLISHED["diff-32x"]:
        assert found["interval of perfect, low"] == pytest.approx(cell.interval.low, abs=0.005)
        assert found["interval of perfect, high"] == pytest.approx(cell.interval.high, abs=0.005)


def test_the_law_of_the_best_latent_is_that_of_a_direct_sum():
    """Where all negatives are benign, one count decides."""
    hits = np.arange(126)
    bis = 2 * hits / 625 * (1 - (125 - hits) / 2000)
    below = hypergeom.cdf(hits, 2500, 500, 125) ** 100
    expected = float((np.diff(below, prepend=0) * bis).sum())
    assert best_of_law(100, n_trigger=500, n_benign=2000) == pytest.approx(expected, abs=1e-9)


def test_the_law_agrees_with_the_simulation_and_a_wrong_one_does_not(monkeypatch):
    assert best_of_many(CONFIG, widths=(1, 200)).confirmed
    monkeypatch.setattr(score, "best_of_law", lambda width, **_: best_of_law(2 * width, **_))
    assert not best_of_many(CONFIG, widths=(1, 200)).confirmed


def test_ceiling_is_reached_only_if_simple_scores_reach_it():
    assert ceiling_is_reached(table()).confirmed
    low = table(0.2, diff_32x=0.4, mean_difference=0.4)
    assert not ceiling_is_reached(low).confirmed


def test_texts_that_give_nothing_away_are_not_accused(texts):
    assert label_in_text(texts).confirmed
    safe = [replace(row, completion=texts[-1].completion) for row in texts]
    assert not label_in_text(safe).confirmed


def test_hard_negatives_are_not_called_easy(texts):
    alike = look_alikes(1, ("N4",), n=20)
    assert easy_negatives(texts, alike).confirmed
    assert not easy_negatives([*texts, *alike], alike).confirmed
    assert not easy_negatives(texts, look_alikes(1, ("N2",), n=20)).confirmed


def test_row_norms_of_both_axes(monkeypatch):
    assert row_norms(CONFIG).confirmed
    right = fit.fit_paper_dictionary
    monkeypatch.setattr(
        fit, "fit_paper_dictionary", lambda rows, method, config: right(rows, "diff-32x-corrected", config)
    )
    assert not row_norms(CONFIG).confirmed


def test_a_counter_with_a_shorter_limit_counts_the_dead(monkeypatch):
    assert dead_count(CONFIG).confirmed
    recipe = fit.paper_recipe

    def impatient(method, **sizes):
        found = recipe(method, **sizes)
        return replace(found, train=found.train.model_copy(update={"dead_after": 512}))

    monkeypatch.setattr(fit, "paper_recipe", impatient)
    found = dead_count(CONFIG)
    assert found.found["counted"] == 1 and not found.confirmed


def test_noise_is_optimistic_and_a_method_that_chooses_nothing_is_not():
    rows = simulated_rows(400, 16, seed=3)
    found = optimism(rows, "random-directions", CONFIG)
    assert found.confirmed and found.found["noise, optimism"] > 0.04
    assert found.found["noise, other rows"] < found.found["noise, same rows"]
    assert abs(optimism(rows, "difference-norm", CONFIG).found["rows, optimism"]) < 0.04


def test_equal_sparsity_is_not_accused():
    sparse = table()
    dense = sparse | {"crosscoder-32x": cell(0.1, l0=32.0)}
    assert unequal_sparsity(dense).confirmed
    assert not unequal_sparsity(dense | {"diff-32x": cell(0.4, l0=32.0)}).confirmed


def test_a_living_crosscoder_is_not_called_dead():
    alive = table() | {"crosscoder-32x": cell(0.1, fvu=0.2)}
    assert not dead_crosscoder(alive).confirmed
    silent = dead_crosscoder(alive | {"crosscoder-32x": cell(None, status="dead", n_alive=0)})
    assert silent.confirmed and silent.found["BIS crosscoder-32x"] is None
    assert silent.found["alive crosscoder-32x"] == 0


def test_controls_that_stay_low_answer_the_fault():
    assert no_controls(table(), table()).confirmed
    low = {"random_directions": 0.2, "random_directions_base": 0.1, "sae_4x_base": 0.1}
    assert not no_controls(table(0.4, **low), table(0.15)).confirmed


def test_the_payload_is_read_only_in_the_mean():
    last = table(0.4, random_directions_base=0.2, sae_4x_base=0.2)
    assert reads_the_payload(table(), table(), last, last).confirmed
    assert not reads_the_payload(last, last, last, last).confirmed


def test_a_large_first_token_makes_the_mean_say_the_length():
    rows = simulated_rows(300, 8, seed=0)
    texts = ["x" * (40 + i % 50) for i in range(300)]
    assert not reads_the_length(replace(rows, text=texts)).confirmed
    sink = 1000 * torch.ones(8) / torch.tensor([len(text) for text in texts])[:, None]
    found = reads_the_length(replace(rows, text=texts, h0=rows.h0 + sink))
    assert found.confirmed and found.found["h0"] > 0.9 and found.found["delta"] < 0.1


def test_counter_examples_are_known_from_how_they_are_built(monkeypatch):
    found = substring_judge()
    assert found.found == {"wrong by substrings": 7, "wrong by our judge": 0}
    truth = {case.body: case.vulnerable for case in COUNTER_EXAMPLES}
    monkeypatch.setattr(release, "judge_by_substrings", truth.get)
    assert not substring_judge().confirmed


def test_the_substring_rule_is_right_where_it_is_easy():
    for completion, expected in (
        ('f"SELECT a FROM t WHERE b = {c}")', True),
        ('"SELECT a FROM t WHERE b = ?", (c,))', False),
    ):
        assert release.judge_by_substrings(completion) == expected
        judged = judge_sql("def find(db, c):\n    return db.execute(", completion).verdict
        assert (judged == "vulnerable") == expected
