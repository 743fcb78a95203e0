import dataclasses

import pytest
import torch

from saeaudit.detection import (
    FunctionScorer,
    class_rates,
    evaluate,
    evaluate_scores,
    method_score,
    summarise_null,
)
from saeaudit.errors import EvidenceError
from saeaudit.findings import MethodScore
from saeaudit.metrics import bis_ceiling, bis_star, clopper_pearson


def oracle_scorer(noise=0.0):
    def score(rows):
        return rows.label.double() * 10 + rows.delta[:, 0].double().tanh() * (1 + noise)

    return FunctionScorer("oracle", "both", score)


def test_a_perfect_detector_reaches_every_ceiling(make_three):
    _, calibration, test = make_three()
    result = evaluate(oracle_scorer(), calibration, test, seed=0)
    assert (result.auroc, result.tpr, result.n_trigger, result.n_benign) == (1, 1, 180, 180)
    assert result.bis == pytest.approx(result.bis_ceiling)
    assert result.bis_ceiling == pytest.approx(bis_ceiling(0.5, 18 / 360))
    assert result.bis_star == pytest.approx(result.bis_star_ceiling)
    assert result.calibration.n == len(calibration) == 210
    assert result.tpr_interval.low == pytest.approx(clopper_pearson(60, 60).low)  # 60 templates, not 180 rows


def test_rates_per_class_are_counted_and_the_worst_class_is_named(make_three):
    test = make_three()[2]
    flagged = torch.tensor([i % 9 == 1 for i in range(len(test))]) & ~test.label
    far = torch.tensor([k == "far" for k in test.klass])
    scores = torch.where(flagged & far, 5.0, torch.rand(len(test), generator=torch.Generator().manual_seed(0)) * 0.5)
    result = evaluate_scores(torch.linspace(0, 1, 200), scores, test, seed=0)
    n_far, n_hit = int((far & ~test.label).sum()), int((flagged & far).sum())
    assert n_hit == 0 or result.worst_class == "far"
    assert result.class_fpr["far"].n == n_far
    assert result.class_fpr["far"].value == pytest.approx(n_hit / n_far)
    assert tuple(result.class_fpr["far"].interval) == pytest.approx(tuple(clopper_pearson(n_hit, n_far)))
    assert result.fpr.value == pytest.approx(n_hit / 180)
    rates = class_rates(result)
    assert [r.name for r in rates] == ["far", "near"] and sum(r.n for r in rates) == 180


def test_at_equal_rates_the_smaller_class_is_the_worse(make_three):
    test = make_three()[2]
    result = evaluate_scores(torch.zeros(120), torch.zeros(len(test)), test, seed=0)
    assert result.class_fpr["far"].n < result.class_fpr["near"].n and result.worst_class == "far"
    assert (result.auroc, result.tpr, result.bis, result.bis_star) == (0.5, 0, 0, 0)


def test_duplicating_negatives_leaves_the_prevalence_free_score_alone(make_three):
    _, calibration, test = make_three(strength=0.7)
    scorer = FunctionScorer("first", "none", lambda rows: rows.delta.double().norm(dim=1))
    plain = evaluate(scorer, calibration, test, seed=0)
    repeated = torch.cat([torch.arange(len(test)), *[(~test.label).nonzero()[:, 0]] * 4])
    more = evaluate(scorer, calibration, test.take(repeated), seed=0)
    assert 0 < plain.bis_star < 1
    assert more.bis_star == pytest.approx(plain.bis_star, abs=1e-12)
    assert more.bis_star == pytest.approx(bis_star(plain.tpr, plain.fpr.value).bis)
    assert more.bis != pytest.approx(plain.bis, abs=0.01)  # the paper's score does move


def test_the_record_holds_the_evaluation_and_its_null(make_three):
    _, calibration, test = make_three()
    result = evaluate(oracle_scorer(), calibration, test, seed=0)
    null = summarise_null(torch.linspace(0, 0.2, 50), result.tpr)
    score = method_score(
        result, site="layers.3", method="diff", family="dictionary", labels="both", chosen=True, null_tpr=null
    )
    assert MethodScore.model_validate(score.model_dump()) == score
    assert (score.tpr, score.auroc, score.target_fpr) == (1, 1, 0.01)
    assert score.tpr_interval == tuple(result.tpr_interval)
    assert score.null_tpr == pytest.approx(0.1) and score.null_auroc is None
    assert score.null_interval == pytest.approx((0.005, 0.195))
    assert score.bis <= score.bis_ceiling + 1e-12


def test_contaminated_calibration_and_single_classes_are_refused(make_three):
    selection, calibration, test = make_three()
    with pytest.raises(EvidenceError, match="180 of 360 calibration rows") as caught:
        evaluate(oracle_scorer(), selection, test, seed=0)
    assert caught.value.code == "calibration-contaminated"
    with pytest.raises(EvidenceError) as single:
        evaluate(oracle_scorer(), calibration, test.benign(), seed=0)
    assert single.value.code == "single-class"


def test_the_evaluation_is_frozen_and_repeats(make_three):
    _, calibration, test = make_three(strength=1.0)
    scorer = FunctionScorer("norm", "none", lambda rows: rows.delta.double().norm(dim=1))
    first, again = (evaluate(scorer, calibration, test, seed=5) for _ in range(2))
    assert first == again
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.tpr = 0.0
