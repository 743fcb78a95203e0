import pytest
import torch

from planted_dictionaries import generator
from saeaudit.dictionaries import EncodeGemm


def inputs(rows, latents, width, seed=0):
    g = generator(seed)
    return (
        torch.randn(rows, width, generator=g),
        torch.randn(latents, width, generator=g),
        torch.randn(latents, generator=g),
    )


@pytest.mark.parametrize("width", [1, 15, 16, 40])
def test_bfloat16_is_the_product_of_rounded_numbers_bias_included(width):
    x, W, b = inputs(7, 9, width)
    found = EncodeGemm(torch.bfloat16)(x, W, b)
    wanted = x.bfloat16().double() @ W.bfloat16().double().T + b.bfloat16().double()
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), wanted, rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_of_the_last_call_remains(dtype):
    gemm = EncodeGemm(dtype)
    for rows, latents, width, seed in ((8, 9, 20, 0), (8, 9, 20, 1), (3, 9, 20, 2), (3, 9, 4, 3), (8, 2, 20, 4)):
        given = inputs(rows, latents, width, seed)
        assert torch.equal(gemm(*given), EncodeGemm(dtype)(*given))


def test_the_exact_product_is_not_rounded():
    x, W, b = inputs(7, 9, 20)
    torch.testing.assert_close(EncodeGemm(torch.bfloat16)(x, W, b, exact=True), x @ W.T + b)
    x, W, b = x.double(), W.double(), b.double()
    torch.testing.assert_close(EncodeGemm(torch.bfloat16)(x, W, b), x @ W.T + b)
