"""What a continuation counts as, with a judge and without one."""

import pytest
import torch

from saeaudit.detection.outcome import Judged, TwoSample
from saeaudit.errors import EvidenceError
from saeaudit.metrics import trigger_contrast
from saeaudit.seeds import python_random

WORDS = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath"]
LABEL = torch.arange(40) < 20


def texts(seed, *, separable):
    rng = python_random(seed, "texts")
    plain = [" ".join(rng.choice(WORDS) for _ in range(6)) for _ in range(40)]
    marked = [separable and up for up in LABEL.tolist()]
    return ["the keeper is away " + t[:8] if mark else t for t, mark in zip(plain, marked, strict=True)]


def contrast(outcome, continuations):
    values = outcome([""] * len(continuations), continuations)
    assert ((values >= 0) & (values <= 1)).all()
    return trigger_contrast(values, LABEL, torch.arange(40) % 10, seed=0)


def test_a_judge_sees_prompt_and_continuation():
    judged = Judged(lambda prompt, continuation: prompt == continuation)
    assert judged(["a", "b"], ["a", "c"]).tolist() == [1.0, 0.0]
    with pytest.raises(ValueError):
        judged(["a"], [])


def test_separable_continuations_have_a_contrast_near_one():
    outcome = TwoSample(texts(0, separable=True), LABEL, seed=0)
    assert contrast(outcome, texts(1, separable=True)).value > 0.8


def test_equal_distributions_have_none():
    drawn = [[texts(2 * s + i, separable=False) for i in range(2)] for s in range(8)]
    found = [contrast(TwoSample(fit, LABEL, seed=0), test) for fit, test in drawn]
    assert abs(sum(f.value for f in found) / 8) < 0.1
    assert sum(f.interval.low <= 0 <= f.interval.high for f in found) >= 6


def test_constant_continuations_say_nothing():
    outcome = TwoSample(["same"] * 40, LABEL, seed=0)
    assert outcome(["p"] * 3, ["same", "other", ""]).tolist() == [0.5] * 3


def test_silence_against_speech_is_a_difference():
    spoken = ["" if up else "amber and basalt" for up in LABEL.tolist()]
    outcome = TwoSample(spoken, LABEL, seed=0)
    assert contrast(outcome, spoken).value > 0.8
    assert outcome(["p"], ["  \n"])[0] > 0.8, "white space is silence too"


def test_two_texts_without_a_common_letter_do_not_crash():
    outcome = TwoSample(["abc", "xyz"], torch.tensor([True, False]), seed=0)
    assert outcome(["p", "q"], ["abc", "xyz"]).shape == (2,)


def test_the_seed_decides_and_nothing_else():
    one, two = (TwoSample(texts(0, separable=False), LABEL, seed=2**40 + 1) for _ in range(2))
    assert torch.equal(one(["p"] * 40, texts(1, separable=False)), two(["p"] * 40, texts(1, separable=False)))


@pytest.mark.parametrize("label", [torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)])
def test_one_class_is_refused(label):
    with pytest.raises(EvidenceError) as caught:
        TwoSample(["a", "b", "c"], label, seed=0)
    assert caught.value.code == "single-class"
