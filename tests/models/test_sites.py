import pytest
import torch

from saeaudit.errors import ModelError
from saeaudit.models import blocks, resolve_site, site_index, site_name
from tiny import FAMILIES, N_LAYERS, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_resolves_each_block(family):
    model = tiny_model(family)
    found = [resolve_site(model, f"layers.{i}") for i in range(N_LAYERS)]
    assert [site.index for site in found] == list(range(N_LAYERS))
    assert len({id(site.module) for site in found}) == N_LAYERS
    assert all(site.module is block for site, block in zip(found, blocks(model), strict=True))


@pytest.mark.parametrize(
    "name", ["layers.4", "layers.40", "layers.", "layers.1.mlp", "layer.1", "layers.01", "", "embed"]
)
def test_an_unknown_site_is_answered_with_the_range(tiny_llama, name):
    with pytest.raises(ModelError, match=r"layers\.0 to layers\.3") as caught:
        resolve_site(tiny_llama, name)
    assert caught.value.code == "unknown-site"
    assert repr(name) in str(caught.value)


def test_negative_layers_are_refused_with_the_reason(tiny_llama):
    with pytest.raises(ModelError, match="negative numbers are refused"):
        resolve_site(tiny_llama, "layers.-1")


def test_names_and_indices_are_inverse():
    assert [site_index(site_name(i)) for i in range(12)] == list(range(12))
    with pytest.raises(ModelError, match="is not a site"):
        site_index("layers.-1")


def test_ambiguous_block_lists_are_an_error(tiny_llama):
    stack = tiny_llama.get_decoder()
    stack.more_layers = torch.nn.ModuleList(torch.nn.Identity() for _ in range(N_LAYERS))
    with pytest.raises(ModelError, match="2 module lists") as caught:
        blocks(tiny_llama)
    assert caught.value.code == "unsupported-architecture"
    assert "more_layers (4)" in str(caught.value)
