"""Going on from a residual equals the whole pass, in every family."""

import pytest
import torch

from saeaudit.errors import ModelError
from saeaudit.models import encode_batch, position_ids, resumed_at, run_blocks
from tiny import FAMILIES, N_LAYERS, TEXTS, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("n_blocks", [1, 2, N_LAYERS])
def test_the_first_blocks_and_the_rest_are_the_whole_pass(family, side, n_blocks):
    model = tiny_model(family, 3)
    ids, mask = encode_batch(tiny_tokenizer(), TEXTS, side=side)
    with torch.no_grad():
        expected = model(ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False).logits
        h = run_blocks(model, ids, mask, n_blocks)
        rest = {"attention_mask": mask, "position_ids": position_ids(mask), "use_cache": False}
        found = resumed_at(model, n_blocks, h)(ids, **rest).logits
        moved = resumed_at(model, n_blocks, h.flip(-1))(ids, **rest).logits
        again = model(ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False).logits
    assert torch.equal(found[mask.bool()], expected[mask.bool()])
    assert (moved - found).abs().max() > 1e-3
    assert torch.equal(again, expected), "the caller's model is not changed"


@pytest.mark.parametrize("n_blocks", [-1, 0, N_LAYERS + 1])
def test_there_must_be_a_block_before(tiny_llama, n_blocks):
    with pytest.raises(ModelError, match="possible are 1 to 4"):
        resumed_at(tiny_llama, n_blocks, torch.zeros(1, 2, 32))
