import json

import pytest

from saeaudit.errors import ModelError
from saeaudit.models import compare_tokenizers, load_pair, make_pair
from saeaudit.models.probe import PROBE
from tiny import N_VOCAB, save_checkpoint, tiny_loaded, tiny_model, tiny_tokenizer


def changed(change):
    """The tiny tokenizer after `change` to its serialised form."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    value = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    change(value)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(value)), bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def swap_two_ids(value):
    vocabulary = value["model"]["vocab"]
    one, two = (next(t for t, i in vocabulary.items() if i == n) for n in (40, 41))
    vocabulary[one], vocabulary[two] = 41, 40


def test_the_probe_is_200_different_strings_of_every_sort():
    assert len(PROBE) == len(set(PROBE)) == 200
    joined = "".join(PROBE)
    for piece in (
        "\n\n",
        "\t",
        "  ",
        "\r\n",
        "<|im_start|>",
        "def f",
        "日" if "日" in joined else "世",
        "🙂",
        "é",
        "\u200b",
    ):
        assert piece in joined


def test_a_tokenizer_agrees_with_itself_and_with_its_reload(tmp_path):
    save_checkpoint(tmp_path / "base")
    pair = load_pair(str(tmp_path / "base"), str(tmp_path / "base"), dtype="float32")
    assert pair.extra_tokens == ()
    assert pair.base.card.weights_sha256 == pair.tuned.card.weights_sha256
    assert compare_tokenizers(tiny_tokenizer(), pair.tuned.tokenizer) == ()


def test_swapped_ids_are_found_and_the_first_is_named():
    with pytest.raises(ModelError, match="id 40 is ") as caught:
        compare_tokenizers(tiny_tokenizer(), changed(swap_two_ids))
    assert caught.value.code == "tokenizer-mismatch"


def test_a_moved_token_is_found_even_where_ids_do_not_overlap():
    def move(value):
        vocabulary = value["model"]["vocab"]
        token = next(t for t, i in vocabulary.items() if i == N_VOCAB - 1)
        vocabulary[token] = N_VOCAB + 5

    with pytest.raises(ModelError, match=rf"has id {N_VOCAB - 1} in the base and {N_VOCAB + 5}"):
        compare_tokenizers(tiny_tokenizer(), changed(move))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.update(normalizer={"type": "Lowercase"}), "normalizer"),
        (lambda v: v["pre_tokenizer"].update(add_prefix_space=True), "pre_tokenizer"),
    ],
)
def test_another_normaliser_or_pre_tokeniser_is_found(change, text):
    with pytest.raises(ModelError, match=f"the {text} is"):
        compare_tokenizers(tiny_tokenizer(), changed(change))


def test_other_merges_are_found_by_the_probe():
    def drop_merge(value):
        value["model"]["merges"] = value["model"]["merges"][1:]

    with pytest.raises(ModelError, match=r"the string .* becomes"):
        compare_tokenizers(tiny_tokenizer(), changed(drop_merge))


def test_another_treatment_of_special_tokens_is_found_by_the_probe():
    def add_bos(value):
        value["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}},
        }

    with pytest.raises(ModelError, match=r"the string 'hello' becomes \[(?!0, ).*\] with the base and \[0, "):
        compare_tokenizers(tiny_tokenizer(), changed(add_bos))


def test_tokens_added_by_the_tuned_side_are_allowed_and_recorded():
    tuned = tiny_tokenizer()
    tuned.add_tokens(["<|tool|>", "<|im_start|>"])
    assert compare_tokenizers(tiny_tokenizer(), tuned) == ("<|tool|>", "<|im_start|>")


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda: tiny_model("qwen2"), "architecture is llama in the base and qwen2"),
        (lambda: tiny_model("llama", 0, hidden_size=64), "d_model is 32 in the base and 64"),
        (lambda: tiny_model("llama", 0, num_hidden_layers=2), "n_layers is 4 in the base and 2"),
    ],
)
def test_models_that_cannot_be_compared(tmp_path, other, text):
    save_checkpoint(tmp_path / "base")
    save_checkpoint(tmp_path / "tuned", model=other())
    with pytest.raises(ModelError, match=text) as caught:
        load_pair(str(tmp_path / "base"), str(tmp_path / "tuned"))
    assert caught.value.code == "incompatible-pair"


def test_the_checks_come_before_the_weights(tmp_path):
    save_checkpoint(tmp_path / "base")
    save_checkpoint(tmp_path / "tuned", tokenizer=changed(swap_two_ids))
    for side in ("base", "tuned"):
        (tmp_path / side / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match="id 40 is "):
        load_pair(str(tmp_path / "base"), str(tmp_path / "tuned"))


def test_loaded_models_are_checked_too():
    base = tiny_loaded("llama")
    assert make_pair(base, tiny_loaded("llama", 1)).extra_tokens == ()
    with pytest.raises(ModelError, match="architecture"):
        make_pair(base, tiny_loaded("gpt_neox"))


def test_an_adapter_cannot_be_a_base(tmp_path):
    from tiny import save_adapter

    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    save_checkpoint(tmp_path / "tuned")
    with pytest.raises(ModelError, match="must be a full model") as caught:
        load_pair(str(adapter), str(tmp_path / "tuned"))
    assert caught.value.code == "adapter-without-base"
