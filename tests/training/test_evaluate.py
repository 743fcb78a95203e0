import subprocess
import sys
from pathlib import Path

import pytest
import torch

from planted_dictionaries import dense_code, dictionary_for, random_dictionary
from saeaudit.errors import NumericsError
from saeaudit.training import evaluate


@pytest.mark.parametrize("kind", ["sae", "diff", "crosscoder"])
def test_equals_the_formulas_on_all_rows_at_once_for_any_batch_size(kind):
    dictionary, x = random_dictionary(kind)
    code = dictionary.encode(x)
    x_hat, f = dictionary.decode(code).detach(), dense_code(code, 20)

    def fvu(x, x_hat):
        return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())

    for batch_size in (200, 33, 2):
        report = evaluate(dictionary, x.split(batch_size))
        assert report.fvu == pytest.approx(fvu(x, x_hat), rel=1e-5)
        assert report.l0 == pytest.approx(float((f > 0).sum(1).float().mean()), rel=1e-6)
        torch.testing.assert_close(report.density, (f > 0).float().mean(0))
        assert report.dead_share == pytest.approx(float((f == 0).all(0).float().mean()))
        assert report.n_tokens == 200
        if kind == "crosscoder":
            assert report.fvu_sides == pytest.approx([fvu(x[:, m], x_hat[:, m]) for m in (0, 1)], rel=1e-5)
            assert report.fvu_delta == pytest.approx(fvu(x[:, 1] - x[:, 0], x_hat[:, 1] - x_hat[:, 0]), rel=1e-5)
        else:
            assert report.fvu_sides == pytest.approx([report.fvu])
            assert report.fvu_delta == (None if kind == "sae" else pytest.approx(report.fvu))


def test_the_mean_predictor_scores_one_and_a_perfect_one_zero():
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
    dictionary = dictionary_for(x, n_latents=8, k=8)
    coder = dictionary.coder
    coder.threshold.fill_(1e9)
    assert evaluate(dictionary, [x]).fvu == pytest.approx(1, abs=1e-4)
    coder.threshold.zero_()
    with torch.no_grad():  # relu(y) - relu(-y) = y
        rows = torch.cat([torch.eye(4), -torch.eye(4)])
        coder.W_enc.copy_(rows)
        coder.W_dec.copy_(rows)
    assert evaluate(dictionary, [x]).fvu == pytest.approx(0, abs=1e-9)


def test_equal_sides_have_no_difference_to_explain():
    x = torch.randn(300, 1, 4, generator=torch.Generator().manual_seed(0)).expand(-1, 2, -1)
    assert evaluate(dictionary_for(x, "crosscoder", n_latents=8), [x]).fvu_delta is None


def test_constant_rows_have_no_share_of_variance():
    dictionary, _ = random_dictionary("sae")
    with pytest.raises(NumericsError):
        evaluate(dictionary, [torch.ones(50, 6)])


ON_ANOTHER_DEVICE = """
import imitation_device

kept = imitation_device.register()
from planted_dictionaries import random_dictionary
from saeaudit.training import evaluate

dictionary, x = random_dictionary("crosscoder")
cpu = evaluate(dictionary, [x])
other = evaluate(dictionary.to(imitation_device.NAME), [x])
assert abs(cpu.fvu - other.fvu) < 1e-5 * cpu.fvu and cpu.l0 == other.l0 and cpu.density.equal(other.density)
"""


def test_batches_are_brought_to_the_device_of_the_dictionary():
    command, tests = [sys.executable, "-c", ON_ANOTHER_DEVICE], Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tests, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
