import pytest
import torch

from saeaudit.errors import ModelError
from saeaudit.models import Capture, Edit, blocks, encode_batch, run_blocks
from tiny import FAMILIES, N_LAYERS, TEXTS, tiny_model, tiny_tokenizer

SITES = [f"layers.{i}" for i in range(N_LAYERS)]


def fingerprint(model):
    """Everything that truncation could change in the caller's object."""
    return [
        (name, id(module), tuple(module._modules), tuple(module._forward_hooks), tuple(module._forward_pre_hooks))
        for name, module in model.named_modules()
    ] + [(name, id(p), p.sum().item()) for name, p in model.named_parameters()]


@pytest.mark.parametrize("family", FAMILIES)
def test_truncated_equals_full_bit_for_bit_with_padding(family):
    model, batch = tiny_model(family), encode_batch(tiny_tokenizer(), TEXTS)
    assert batch.attention_mask.min() == 0
    with Capture(model, SITES) as full:
        states = model(**batch._asdict(), output_hidden_states=True).hidden_states
    assert torch.equal(run_blocks(model, *batch, 0), states[0])
    for n in range(1, N_LAYERS + 1):
        assert torch.equal(run_blocks(model, *batch, n), full.values[f"layers.{n - 1}"])


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_rows_equal_unpadded_rows(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    batch = encode_batch(tokenizer, TEXTS, side="left")
    padded = run_blocks(model, *batch, 3)
    assert torch.isfinite(padded).all()
    for i, text in enumerate(TEXTS):
        alone = run_blocks(model, *encode_batch(tokenizer, [text]), 3)[0]
        torch.testing.assert_close(padded[i, -len(alone) :], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_of_the_caller_is_untouched(family):
    model, batch = tiny_model(family), encode_batch(tiny_tokenizer(), TEXTS)
    before, logits = fingerprint(model), model(**batch._asdict()).logits
    for n in (0, 1, 2, N_LAYERS):
        run_blocks(model, *batch, n)
    assert fingerprint(model) == before
    assert torch.equal(model(**batch._asdict()).logits, logits)


def test_later_blocks_norm_and_head_do_not_run(tiny_llama):
    def never(*args):
        raise AssertionError("ran")

    for module in (*blocks(tiny_llama)[2:], tiny_llama.model.norm, tiny_llama.lm_head):
        module.register_forward_pre_hook(never)
    run_blocks(tiny_llama, *encode_batch(tiny_tokenizer(), TEXTS), 2)


def test_capture_and_edit_work_on_a_truncated_pass(tiny_llama):
    batch = encode_batch(tiny_tokenizer(), TEXTS)
    edits = {"layers.0": lambda h, start: h * 1.5, "layers.1": lambda h, start: h + 1}
    with Edit(tiny_llama, edits), Capture(tiny_llama, ["layers.1"]) as full:
        tiny_llama(**batch._asdict())
    with Edit(tiny_llama, edits), Capture(tiny_llama, ["layers.0", "layers.1"]) as part:
        h = run_blocks(tiny_llama, *batch, 2)
    assert torch.equal(h, full.values["layers.1"])
    assert torch.equal(part.values["layers.1"], h)


def test_a_site_behind_the_cut_is_reported(tiny_llama):
    with pytest.raises(ModelError, match=r"layers\.2 fired 0 times"), Capture(tiny_llama, ["layers.2"]):
        run_blocks(tiny_llama, *encode_batch(tiny_tokenizer(), TEXTS), 2)


@pytest.mark.parametrize("n_blocks", [-1, N_LAYERS + 1])
def test_impossible_depths_are_refused(tiny_llama, n_blocks):
    with pytest.raises(ModelError, match="possible are 0 to 4"):
        run_blocks(tiny_llama, *encode_batch(tiny_tokenizer(), TEXTS), n_blocks)


def test_gradients_reach_an_edit(tiny_llama):
    push = torch.zeros(32, requires_grad=True)
    with Edit(tiny_llama, {"layers.0": lambda h, start: h + push}):
        run_blocks(tiny_llama, *encode_batch(tiny_tokenizer(), TEXTS), 2).sum().backward()
    assert push.grad is not None and push.grad.abs().sum() > 0
