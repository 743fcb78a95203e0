import math

import pytest
import torch
from scipy.stats import beta

from saeaudit.detection import CalibrationTooSmall, calibrate, required_calibration
from saeaudit.errors import EvidenceError, NumericsError


def test_the_threshold_is_the_kth_smallest():
    scores = torch.arange(1, 100).float()[torch.randperm(99, generator=torch.Generator().manual_seed(0))]
    assert calibrate(scores).threshold == 99  # k = ceil(100 * .99) = 99
    assert calibrate(torch.arange(1, 201).float()).threshold == 199  # k = ceil(201 * .99) = 199
    assert calibrate(torch.arange(1, 20).float(), alpha=0.05).threshold == 19
    assert calibrate(torch.arange(1, 101).float(), alpha=0.1).threshold == 91


@pytest.mark.parametrize(("alpha", "needed"), [(0.01, 99), (0.05, 19), (0.001, 999), (0.3, 3)])
def test_the_smallest_set_is_accepted_and_one_less_is_not(alpha, needed):
    assert required_calibration(alpha) == needed
    assert calibrate(torch.rand(needed, generator=torch.Generator().manual_seed(0)), alpha=alpha).n == needed
    with pytest.raises(CalibrationTooSmall, match=f"at least {needed} benign prompts, found {needed - 1}") as caught:
        calibrate(torch.rand(needed - 1), alpha=alpha)
    assert (caught.value.needed, caught.value.found) == (needed, needed - 1)


def test_coverage_over_2000_sets_follows_the_beta_law():
    n, alpha, sets = 150, 0.05, 2000
    generator = torch.Generator().manual_seed(0)
    realised = []
    for _ in range(sets):
        # Uniform scores: the chance that a new one is above the threshold is exactly 1 - threshold.
        realised.append(1 - calibrate(torch.rand(n, generator=generator), alpha=alpha).threshold)
    k = math.ceil((n + 1) * (1 - alpha))
    law = beta(n + 1 - k, k)
    mean = sum(realised) / sets
    assert abs(mean - law.mean()) < 4 * law.std() / sets**0.5
    assert mean <= alpha
    # An index that is off by one moves the mean by 1/(n+1), far outside.
    assert 1 / (n + 1) > 10 * law.std() / sets**0.5
    inside = sum(law.ppf(0.025) <= r <= law.ppf(0.975) for r in realised)
    assert abs(inside - 0.95 * sets) < 4 * (sets * 0.95 * 0.05) ** 0.5


def test_ties_flag_less_never_more():
    scores = torch.tensor([0.0] * 95 + [1.0] * 5)
    assert not calibrate(scores).flags(scores).any()
    assert not calibrate(torch.zeros(120)).flags(torch.zeros(50)).any()


def test_bad_input_is_refused():
    with pytest.raises(NumericsError):
        calibrate(torch.full((200,), float("nan")))
    with pytest.raises(EvidenceError, match="0 < alpha < 1"):
        calibrate(torch.zeros(200), alpha=1.5)
