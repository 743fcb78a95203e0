import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.errors import ModelError
from saeaudit.models import weights_sha256
from saeaudit.models.weights import require_finite
from tiny import tiny_model


def state(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"b": torch.randn(3, 4, generator=generator), "a": torch.randn(5, generator=generator).bfloat16()}


def test_the_hash_is_the_documented_one():
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    expected = hashlib.sha256(b"w\x1ftorch.float32\x1f(2, 3)\x1f" + x.numpy().tobytes()).hexdigest()
    assert weights_sha256({"w": x}) == expected


def test_order_and_memory_layout_do_not_matter():
    one = state()
    layout = {"a": one["a"], "b": one["b"].T.contiguous().T}
    assert not layout["b"].is_contiguous()
    assert weights_sha256(layout) == weights_sha256(one)


@given(st.integers(0, 11))
def test_a_single_changed_bit_changes_the_hash(position):
    one = state()
    two = {name: tensor.clone() for name, tensor in one.items()}
    bits = two["b"].view(torch.int32).reshape(-1)
    bits[position] ^= 1
    assert weights_sha256(one) != weights_sha256(two)


def test_name_shape_and_dtype_are_part_of_the_hash():
    x = torch.zeros(4)
    variants = [{"w": x}, {"v": x}, {"w": x.reshape(2, 2)}, {"w": x.int()}, {"w": torch.zeros(5)}]
    assert len({weights_sha256(v) for v in variants}) == len(variants)


def test_two_tensors_that_swap_places_are_seen():
    one = {"a": torch.ones(2), "b": torch.zeros(2)}
    assert weights_sha256(one) != weights_sha256({"a": one["b"], "b": one["a"]})


def test_tied_heads_hash_alike_across_loads():
    hashes = {weights_sha256(tiny_model("llama", 1, tie_word_embeddings=True).state_dict()) for _ in range(2)}
    assert len(hashes) == 1
    assert hashes != {weights_sha256(tiny_model("llama", 2, tie_word_embeddings=True).state_dict())}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(bad, dtype):
    weights = {
        "good": torch.ones(3),
        "ids": torch.tensor([1]),
        "empty": torch.ones(0),
        "bad": torch.ones(4, dtype=dtype),
    }
    require_finite(weights, "m")
    weights["bad"][2] = bad
    with pytest.raises(ModelError, match="'bad' has 1 NaN or infinite entries of 4") as caught:
        require_finite(weights, "m")
    assert caught.value.code == "weights-not-finite"
