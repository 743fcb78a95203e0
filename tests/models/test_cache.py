"""A cache with room gives what a cache without gives, over growth, windows and padding."""

import pytest
import torch
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from saeaudit.models import growing_cache
from saeaudit.models.cache import SPARE
from tiny import FAMILIES, tiny_loaded


def states(n, seed):
    return torch.randn(2, 3, n, 4, generator=torch.Generator().manual_seed(seed))


def test_what_was_appended_comes_back_across_growth():
    cache, plain = growing_cache(tiny_loaded("llama").model), DynamicCache()
    rooms = []
    for step, n in enumerate([7, 1, 1, SPARE, 1, 90, 1]):
        for layer in (1, 0):
            given = states(n, 2 * step + layer), states(n, 99 + 2 * step + layer)
            found, expected = cache.update(*given, layer), plain.update(*given, layer)
            assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
        assert cache.get_seq_length() == plain.get_seq_length()
        rooms.append(found[0].untyped_storage().data_ptr())
    assert rooms[0] == rooms[1] == rooms[2] != rooms[3], "a new token is written into the room that is there"


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "mistral with a window"])
def test_cached_steps_equal_a_whole_pass(family):
    if family in FAMILIES:
        model = tiny_loaded(family).model
    else:
        config = MistralConfig(
            vocab_size=60,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            sliding_window=6,
        )
        model = MistralForCausalLM(config).eval()
    ids = torch.randint(5, 50, (2, 24), generator=torch.Generator().manual_seed(0))
    whole = model(input_ids=ids, use_cache=False).logits
    cache, parts = growing_cache(model), []
    for columns in ids.split([15, 1, 1, 4, 1, 1, 1], dim=1):
        parts.append(model(input_ids=columns, past_key_values=cache, use_cache=True).logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)
