import pytest
import torch

from saeaudit.errors import NumericsError
from saeaudit.statistics import StatisticsFitter


def fitted(*batches):
    fitter = StatisticsFitter()
    for batch in batches:
        fitter.update(batch)
    return fitter.result()


def two_pass(x):
    """Oracle: mean, then mean squared deviation, in fp64."""
    x = x.double()
    mean = x.mean(0)
    return mean, ((x - mean) ** 2).mean((0, -1)).sqrt()


@pytest.mark.parametrize("shape", [(6,), (2, 6)], ids=["one-side", "two-sides"])
@pytest.mark.parametrize("cuts", [[500], [1, 499], [7] * 71 + [3], [0, 250, 0, 250]])
def test_streamed_equals_two_pass_where_the_mean_is_large(shape, cuts):
    x = 1e3 + 1e-2 * torch.randn(500, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = fitted(*x.split(cuts))
    mean, scale = two_pass(x)
    assert found.count == 500
    torch.testing.assert_close(found.mean.double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.scale.double(), scale, rtol=1e-6, atol=0)
    assert found.scale.shape == shape[:-1]


def test_single_precision_sums_would_fail_that_test():
    x = (1e3 + 1e-2 * torch.randn(500, 6, generator=torch.Generator().manual_seed(0))).float()
    naive = (x.square().mean() - x.mean().square()).clamp_min(0).sqrt().item()
    assert abs(naive - 1e-2) > 1e-3


def test_merging_does_not_depend_on_the_order():
    x = torch.randn(90, 5, generator=torch.Generator().manual_seed(1))
    a, b = fitted(x[:30], x[30:40], x[40:]), fitted(x[40:], x[30:40], x[:30])
    torch.testing.assert_close(a.mean, b.mean)
    torch.testing.assert_close(a.scale, b.scale)


@pytest.mark.parametrize(
    ("batches", "code"),
    [
        ([], "no-rows"),
        ([torch.ones(1, 3)], "no-rows"),
        ([torch.zeros(9, 3)], "degenerate-activations"),
        ([torch.full((3, 3), 0.1), torch.full((4, 3), 0.1)], "degenerate-activations"),
        ([torch.tensor([[0.0, 1.0], [0.0, float("nan")]])], "degenerate-activations"),
        ([torch.tensor([[0.0, 1.0], [0.0, float("inf")]])], "degenerate-activations"),
        ([torch.stack([torch.randn(9, 3), torch.zeros(9, 3)], 1)], "degenerate-activations"),
    ],
    ids=["nothing", "one-row", "zeros", "constant", "nan", "inf", "one-dead-side"],
)
def test_numbers_without_spread_are_refused(batches, code):
    with pytest.raises(NumericsError) as caught:
        fitted(*batches)
    assert caught.value.code == code


def test_the_smallest_spread_of_single_precision_is_not_called_constant():
    x = torch.ones(4, 2)
    x[0, 0] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert fitted(x).scale > 0


def test_rows_of_another_width_are_a_programming_error():
    with pytest.raises(ValueError, match="followed by rows"):
        fitted(torch.randn(3, 4), torch.randn(3, 1))
