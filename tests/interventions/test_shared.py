"""Sharing the blocks below the site changes no logit."""

import pytest
import torch

from planted_pair import random_dictionary
from saeaudit.errors import ConfigError
from saeaudit.interventions import Clamp, LatentEdit, PairedBase, PairedClamp, SharedPass
from saeaudit.models import Edit, Pair, encode_batch, position_ids
from tiny import FAMILIES, TEXTS, tiny_loaded, tuned_copy


def whole_pass(pair, edit, ids, mask):
    with (
        torch.no_grad(),
        PairedBase(pair.base.model, pair.tuned.model, edit.clamp.site) as paired,
        Edit(pair.tuned.model, {edit.clamp.site: PairedClamp(paired, edit)}),
    ):
        return pair.tuned.model(ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("site", ["layers.0", "layers.2", "layers.3"])
def test_each_clamp_gives_the_logits_of_its_own_whole_pass(family, side, site):
    base = tiny_loaded(family)
    pair = Pair(base, tuned_copy(base))
    ids, mask = encode_batch(base.tokenizer, TEXTS, side=side)
    shared = SharedPass(pair.base.model, pair.tuned.model, site, ids, mask)
    there, seen = mask.bool(), []
    for latents in ((0, 1), (2, 3, 4)):
        edit = LatentEdit(random_dictionary(), Clamp(site, latents, "set", 2.0))
        found = shared.logits(edit)
        torch.testing.assert_close(found[there], whole_pass(pair, edit, ids, mask)[there], atol=1e-5, rtol=1e-5)
        assert torch.equal(shared.logits(edit, keep=2), found[:, -2:])
        seen.append(found)
    with torch.no_grad():
        free = pair.tuned.model(ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False).logits
    assert torch.equal(shared.logits()[there], free[there])
    assert (seen[0] - seen[1])[there].abs().max() > 1e-3 and (seen[0] - free)[there].abs().max() > 1e-3


def test_a_clamp_of_another_site_is_refused():
    base = tiny_loaded("llama")
    ids, mask = encode_batch(base.tokenizer, TEXTS)
    shared = SharedPass(base.model, tuned_copy(base).model, "layers.1", ids, mask)
    with pytest.raises(ConfigError, match=r"layers\.2 was asked of a pass that is shared at layers\.1"):
        shared.logits(LatentEdit(random_dictionary(), Clamp("layers.2", (0,))))
