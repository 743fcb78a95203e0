import pytest
import torch

from saeaudit.detection import BASELINES, evaluate
from saeaudit.errors import EvidenceError
from saeaudit.metrics import auroc

USES_LABELS = {name for name in BASELINES if name in ("mean difference", "whitened mean difference", "linear probe")}
READS_DELTA = set(BASELINES) - {"text only", "probe on the base"}


@pytest.mark.parametrize("name", sorted(USES_LABELS | {"best single coordinate"}))
def test_supervised_baselines_find_a_planted_direction_and_lose_it_when_labels_are_shuffled(name, make_three):
    selection, _, test = make_three(strength=1.5)
    scorer = BASELINES[name](selection, seed=0)
    found = auroc(scorer(test), test.label)
    assert scorer.labels == "both"
    assert found > (0.75 if name == "best single coordinate" else 0.9)
    missed = []
    for seed in range(5):
        mixed = selection.label[torch.randperm(len(selection), generator=torch.Generator().manual_seed(seed))]
        wrong = type(selection)(selection.h0, selection.delta, selection.text, mixed, selection.klass, selection.group)
        missed.append(abs(auroc(BASELINES[name](wrong, seed=0)(test), test.label) - 0.5))
    assert sorted(missed)[2] < found - 0.5


@pytest.mark.parametrize("name", sorted(READS_DELTA - USES_LABELS - {"best single coordinate"}))
def test_unlabelled_baselines_see_a_large_change_and_ignore_trigger_rows_when_fitted(name, make_three):
    selection, calibration, test = make_three(strength=3.0)
    scorer = BASELINES[name](selection, seed=0)
    assert scorer.labels in ("none", "benign")
    assert auroc(scorer(test), test.label) > 0.9
    benign_only = BASELINES[name](selection.benign(), seed=0)
    assert torch.equal(scorer(test), benign_only(test))
    assert evaluate(scorer, calibration, test, seed=0).tpr > 0.3


@pytest.mark.parametrize("name", sorted(READS_DELTA))
def test_identical_models_silence_every_detector_that_reads_the_difference(name, make_three):
    selection, calibration, test = make_three(scale=0.0)
    assert not test.delta.any()
    scorer = BASELINES[name](selection, seed=0)
    result = evaluate(scorer, calibration, test, seed=0)
    assert (result.auroc, result.tpr, result.fpr.value, result.bis, result.bis_star) == (0.5, 0, 0, 0, 0)


def test_the_text_classifier_reads_text_and_nothing_else(make_three):
    selection, _, test = make_three()

    def marked(rows):
        text = [f"{t} year 2024" if label else t for t, label in zip(rows.text, rows.label.tolist(), strict=True)]
        return type(rows)(torch.zeros_like(rows.h0), rows.delta, text, rows.label, rows.klass, rows.group)

    scorer = BASELINES["text only"](marked(selection), seed=0)
    assert auroc(scorer(marked(test)), test.label) == 1
    assert auroc(BASELINES["text only"](selection, seed=0)(test), test.label) < 0.65


def test_the_text_classifier_survives_empty_prompts(make_rows):
    rows = make_rows(4)
    empty = type(rows)(rows.h0, rows.delta, [""] * len(rows), rows.label, rows.klass, rows.group)
    assert auroc(BASELINES["text only"](empty, seed=0)(empty), rows.label) == 0.5


def test_the_base_probe_sees_the_base_only(make_three):
    selection, _, test = make_three(strength=5.0)
    assert auroc(BASELINES["probe on the base"](selection, seed=0)(test), test.label) < 0.65


@pytest.mark.parametrize("name", sorted(USES_LABELS | {"text only", "probe on the base", "best single coordinate"}))
def test_one_class_is_refused(name, make_rows):
    with pytest.raises(EvidenceError) as caught:
        BASELINES[name](make_rows(5).benign(), seed=0)
    assert caught.value.code == "single-class"
