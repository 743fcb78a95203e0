"""The answers of an isolation study, on cells whose answer is known; each must come out both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from report.isolation_example import cell, interval
from saeaudit.report.isolation_cells import places
from saeaudit.report.isolation_questions import answers, compare, contests

ends = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair)))


@given(ends, ends)
def test_comparing_intervals_is_strict_and_turns_round(one, other):
    turned = {"above": "below", "below": "above", "overlap": "overlap"}
    assert compare(one, other) == turned[compare(other, one)]
    assert compare(one, one) == "overlap"
    assert (compare(one, other) == "overlap") == (max(one[0], other[0]) <= min(one[1], other[1]))


@pytest.mark.parametrize(
    ("dictionary", "baseline", "passed", "words"),
    [
        (0.9, 0.5, True, "At 1 of 1 place (organism and layer) the best dictionary lies above: diff-batchtopk"),
        (0.5, 0.9, False, "At 1 the best baseline lies above"),
        (0.6, 0.5, False, "At none of 1 place"),
    ],
)
def test_dictionary_against_baseline(dictionary, baseline, passed, words):
    answer = answers([cell(tpr=dictionary), cell(method="linear probe", tpr=baseline)])[0]
    assert answer.passed is passed and words in answer.sentence
    assert ("baseline lies above" in answer.sentence) == (baseline == 0.9)


def test_some_places_are_neither_yes_nor_no():
    cells = [
        cell(layer=layer, method=method, tpr=tpr)
        for layer, pair in (("layers.9", (0.9, 0.5)), ("layers.13", (0.1, 0.9)))
        for method, tpr in zip(("diff-batchtopk", "linear probe"), pair, strict=True)
    ]
    answer = answers(cells)[0]
    assert answer.passed is None
    assert "At 1 of 2 places" in answer.sentence and "at layers.9" in answer.sentence
    assert "At 1 the best baseline lies above." in answer.sentence


def test_only_equals_are_compared():
    """Same labels; no control, no dead dictionary, none of another sparsity, no harmless behaviour."""
    cells = [
        cell(tpr=0.4),
        cell(method="diff-relu", tpr=1.0, status="sparsity-unmatched"),
        cell(method="diff-gated", tpr=1.0, status="dead"),
        cell(method="linear probe", tpr=0.5),
        cell(method="Mahalanobis", tpr=1.0),
        cell(method="text only", tpr=1.0),
        cell("phrase-conditional-s0", tpr=1.0),
        cell("phrase-conditional-s0", method="linear probe", tpr=0.1),
    ]
    first, harmless = contests(places(cells))
    assert (first.dictionary.method, first.baseline.method, first.order) == (
        "diff-batchtopk",
        "linear probe",
        "overlap",
    )
    assert harmless.order == "above"
    assert "1 place " in answers(cells)[0].sentence


@pytest.mark.parametrize(
    ("hidden", "twin", "passed"),
    [(0.9, 0.05, True), (0.9, 0.6, False), (0.05, 0.05, None), (0.05, 0.6, False)],
)
def test_the_twin_and_its_null(hidden, twin, passed):
    answer = answers([cell(tpr=hidden), cell("phrase-clean-s0", tpr=twin)])[1]
    assert answer.passed is passed
    assert f"{int(hidden == 0.9)} are above it" in answer.sentence


def test_a_few_of_many_twins_above_the_null_are_chance():
    many = [cell("phrase-clean-s0", f"layers.{n}", tpr=0.05) for n in range(78)]
    above = [cell("phrase-clean-s0", f"layers.{n}", tpr=0.6) for n in range(100, 103)]
    assert answers([cell(), *many, *above[:2]])[1].passed is True
    assert answers([cell(), *many, *above])[1].passed is False


def test_another_model_without_the_behaviour_counts_as_a_twin_does():
    answer = answers([cell(tpr=0.9), cell("phrase-unrelated-s0", tpr=0.7)])[1]
    assert answer.passed is False


@pytest.mark.parametrize(
    ("hidden", "idle", "passed"), [(0.4, 0.4, False), (0.4, 0.1, True), (0.2, 0.1, None), (0.1, 0.39, False)]
)
def test_bis_near_its_ceiling(hidden, idle, passed):
    cells = [cell(bis=hidden), cell(method="text only", bis=idle), cell("phrase-clean-s0", bis=0.1)]
    assert answers(cells)[2].passed is passed


def test_without_anything_to_compare_there_is_no_answer():
    for cells in ([cell(method="linear probe")], [cell()], [cell("phrase-clean-s0", method="linear probe")]):
        assert {answer.passed for answer in answers(cells)} == {None}


def test_the_rule_of_the_null_is_about_intervals():
    touching = {name: interval(0.1) for name in cell().interval} | {"tpr_at_1pct_fpr": (0.2, 0.6)}
    answer = answers([cell(tpr=0.9), cell("phrase-clean-s0", tpr=0.4, interval=touching)])[1]
    assert answer.passed is True
