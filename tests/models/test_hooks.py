import pytest
import torch
from torch import nn

from saeaudit.errors import ModelError
from saeaudit.models import Capture, Edit, encode_batch
from tiny import FAMILIES, N_LAYERS, TEXTS, tiny_model, tiny_tokenizer

SITES = [f"layers.{i}" for i in range(N_LAYERS)]


@pytest.fixture
def batch():
    return encode_batch(tiny_tokenizer(), TEXTS)


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_capture_equals_hidden_states_up_to_the_last_block(family, batch):
    model = tiny_model(family)
    with Capture(model, SITES) as capture:
        states = model(**batch._asdict(), output_hidden_states=True).hidden_states
    for i in range(N_LAYERS - 1):
        assert torch.equal(capture.values[f"layers.{i}"], states[i + 1])
    # The trap: the final entry of hidden_states comes after the final norm.
    assert not torch.allclose(capture.values[f"layers.{N_LAYERS - 1}"], states[-1], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_identity_edits_change_nothing_and_a_change_arrives_downstream(family, batch):
    model = tiny_model(family)
    plain = model(**batch._asdict()).logits
    with Edit(model, {site: lambda h, start: h for site in SITES}):
        assert torch.equal(model(**batch._asdict()).logits, plain)
    with Capture(model, SITES) as before:
        model(**batch._asdict())
    # Not a constant shift: LayerNorm would take it out again.
    shift = torch.linspace(-1, 1, 32)
    with Edit(model, {"layers.1": lambda h, start: h + shift}), Capture(model, SITES) as after:
        changed = model(**batch._asdict()).logits
    assert torch.equal(after.values["layers.0"], before.values["layers.0"])
    assert torch.equal(after.values["layers.1"], before.values["layers.1"] + shift)
    assert not torch.allclose(after.values["layers.2"], before.values["layers.2"], atol=1e-3)
    assert not torch.allclose(changed, plain, atol=1e-3)


def test_an_edit_equals_the_same_change_made_by_hand(batch):
    model = tiny_model("llama")
    target = torch.randn(model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    with Edit(model, {"layers.1": lambda h, start: h + target}):
        edited = model(**batch._asdict()).logits
    # The same shift put into block 1's own bias: an independent way to add it.
    down = model.model.layers[1].mlp.down_proj
    shifted = nn.Linear(down.in_features, down.out_features)
    shifted.weight, shifted.bias = down.weight, nn.Parameter(target)
    model.model.layers[1].mlp.down_proj = shifted
    torch.testing.assert_close(edited, model(**batch._asdict()).logits, atol=2e-5, rtol=1e-5)


def test_hooks_are_removed_after_an_exception_and_outputs_are_bit_identical(batch):
    model = tiny_model("gpt2")
    plain, before = model(**batch._asdict()).logits, n_hooks(model)

    def fail(h, start):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Edit(model, {"layers.2": fail}), Capture(model, SITES):
        model(**batch._asdict())
    assert n_hooks(model) == before
    assert torch.equal(model(**batch._asdict()).logits, plain)


def test_nothing_remains_after_leaving_normally(batch):
    model = tiny_model("llama")
    before = n_hooks(model)
    with Edit(model, {"layers.0": lambda h, start: h * 2}), Capture(model, ["layers.1"]):
        assert n_hooks(model) == before + 4
        model(**batch._asdict())
    assert n_hooks(model) == before


@pytest.mark.parametrize("make", [lambda m: Capture(m, ["layers.1"]), lambda m: Edit(m, {"layers.1": lambda h, s: h})])
def test_a_site_that_never_fires_raises(make):
    with pytest.raises(ModelError, match=r"layers\.1 fired 0 times") as caught, make(tiny_model("llama")):
        pass
    assert caught.value.code == "site-not-reached"


def test_a_site_that_fires_twice_in_one_forward_raises(batch):
    model = tiny_model("llama")
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(ModelError, match=r"layers\.1 fired 2 times"), Capture(model, ["layers.1"]):
        model(**batch._asdict(), use_cache=False)


def test_an_error_inside_is_not_replaced_by_the_complaint_about_sites():
    with pytest.raises(KeyError), Capture(tiny_model("llama"), ["layers.1"]):
        raise KeyError


def test_capture_can_be_entered_again_but_not_twice_at_once(batch):
    model = tiny_model("llama")
    capture = Capture(model, ["layers.0"])
    for _ in range(2):
        with capture:
            assert capture.values == {}
            model(**batch._asdict())
            model(**batch._asdict())
    with capture, pytest.raises(ModelError, match="already attached"):
        model(**batch._asdict())
        capture.__enter__()


def test_a_wrong_shape_is_refused_with_both_shapes(batch):
    model = tiny_model("llama")
    with (
        pytest.raises(ModelError, match="expected the shape") as caught,
        Edit(model, {"layers.1": lambda h, start: h[:, :1]}),
    ):
        model(**batch._asdict())
    assert caught.value.code == "edit-shape"


def test_an_edit_in_float32_is_cast_back_to_the_model_dtype(batch):
    model = tiny_model("llama").to(torch.bfloat16)
    plain = model(**batch._asdict()).logits
    with Edit(model, {"layers.1": lambda h, start: h.float()}):
        assert torch.equal(model(**batch._asdict()).logits, plain)


def test_unknown_sites_are_found_before_the_forward(tiny_llama):
    with pytest.raises(ModelError, match="no site matches"):
        Capture(tiny_llama, ["layers.9"])


def test_tuple_and_tensor_outputs_are_both_handled(tiny_llama, batch):
    class TupleBlock(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **kwargs):
            return (self.block(*args, **kwargs), "cache")

    class Unwrap(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.inner = block

        def forward(self, h, **kwargs):
            first = h[0] if isinstance(h, tuple) else h
            assert not isinstance(h, tuple) or h[1] == "cache"
            return self.inner(first, **kwargs)

    with Edit(tiny_llama, {"layers.1": lambda h, start: h * 2}):
        expected = tiny_llama(**batch._asdict(), use_cache=False).logits
    layers = tiny_llama.model.layers
    layers[1], layers[2] = TupleBlock(layers[1]), Unwrap(layers[2])
    with Edit(tiny_llama, {"layers.1": lambda h, start: h * 2}), Capture(tiny_llama, ["layers.1"]) as capture:
        got = tiny_llama(**batch._asdict(), use_cache=False).logits
    assert torch.equal(got, expected)
    assert capture.values["layers.1"].shape == (len(TEXTS), batch.input_ids.shape[1], 32)


@pytest.mark.parametrize("family", FAMILIES)
def test_start_is_the_number_of_cached_tokens_not_a_count_of_calls(family):
    model = tiny_model(family)
    ids = torch.arange(3, 13)[None]
    seen = []

    def note(h, start):
        seen.append((start, h.shape[1]))
        return h

    with Edit(model, {"layers.0": note, "layers.3": note}):
        model(ids)
        cache = model(ids[:, :4], use_cache=True).past_key_values
        cache = model(ids[:, 4:9], past_key_values=cache, use_cache=True).past_key_values
        model(ids[:, 9:], past_key_values=cache, use_cache=True)
        model(ids[:, :2])
    assert seen == [pair for pair in [(0, 10), (0, 4), (4, 5), (9, 1), (0, 2)] for _ in range(2)]


def test_gradients_flow_through_edit_and_capture(tiny_llama, batch):
    push = torch.zeros(32, requires_grad=True)
    with Edit(tiny_llama, {"layers.1": lambda h, start: h + push}), Capture(tiny_llama, ["layers.2"]) as capture:
        tiny_llama(**batch._asdict())
    capture.values["layers.2"].square().sum().backward()
    assert push.grad is not None and push.grad.abs().sum() > 0
