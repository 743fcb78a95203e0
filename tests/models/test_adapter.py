import copy
import json

import pytest
import torch
from safetensors.torch import load as load_tensors

from saeaudit.errors import ModelError
from saeaudit.models import ADAPTER_METADATA, encode_batch, load_model, load_pair
from tiny import TEXTS, save_adapter, save_checkpoint, tiny_model, tiny_tokenizer

FAMILY_TARGETS = [
    ("llama", ("q_proj", "down_proj", "embed_tokens")),
    ("gpt2", ("c_attn", "c_fc")),
    ("gpt_neox", ("query_key_value", "dense_h_to_4h")),
    ("gemma2", ("o_proj", "up_proj")),
]


def load(tmp_path, adapter, **options):
    return load_model(str(adapter), base=str(tmp_path / "base"), dtype="float32", **options)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning")
@pytest.mark.parametrize(("family", "targets"), FAMILY_TARGETS)
def test_folded_equals_toggled(tmp_path, family, targets):
    from peft import PeftModel

    base = tiny_model(family)
    save_checkpoint(tmp_path / "base", family)
    adapter = save_adapter(tmp_path / "adapter", base, targets=targets)
    folded = load(tmp_path, adapter)
    toggled = PeftModel.from_pretrained(copy.deepcopy(base), str(adapter)).eval()
    batch = encode_batch(tiny_tokenizer(), TEXTS)
    with torch.no_grad():
        on, off = toggled(**batch._asdict()).logits, base(**batch._asdict()).logits
    torch.testing.assert_close(folded.model(**batch._asdict()).logits, on, atol=1e-5, rtol=1e-5)
    assert (on - off).abs().max() > 1e-2
    assert folded.model.state_dict().keys() == base.state_dict().keys()
    assert type(folded.model) is type(base)
    assert folded.card.kind == "adapter" and folded.card.adapter_sha256 is not None


def test_folding_happens_in_float32_before_the_cast(tmp_path):
    base = tiny_model()
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base, targets=("q_proj",))
    delta = load_tensors((adapter / "adapter_model.safetensors").read_bytes())
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    update = 2 * (delta[name.format("B")].double() @ delta[name.format("A")].double())
    expected = (base.model.layers[0].self_attn.q_proj.weight.double() + update).float().bfloat16()
    folded = load_model(str(adapter), base=str(tmp_path / "base"), dtype="bfloat16")
    weight = folded.model.model.layers[0].self_attn.q_proj.weight
    # fp32 and fp64 sums may round to neighbouring bfloat16 numbers once in a while, bf16 folding does so everywhere.
    assert (weight != expected).float().mean() < 0.01


def test_the_card_tells_adapters_apart_whatever_the_dtype(tmp_path):
    base = tiny_model()
    save_checkpoint(tmp_path / "base")
    one, two = (save_adapter(tmp_path / f"adapter{i}", base, seed=i) for i in range(2))
    first = [load_model(str(one), base=str(tmp_path / "base"), dtype=d).card for d in ("float32", "bfloat16")]
    second = load(tmp_path, two).card
    assert first[0].weights_sha256 == first[1].weights_sha256 != second.weights_sha256
    assert first[0].adapter_sha256 != second.adapter_sha256


def test_an_adapter_pair_shares_the_tokenizer_and_leaves_the_base_alone(tmp_path):
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    pair = load_pair(str(tmp_path / "base"), str(adapter), dtype="float32")
    assert pair.tuned.tokenizer is pair.base.tokenizer
    plain = load_model(str(tmp_path / "base"), dtype="float32")
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(pair.base.model.state_dict()[name], tensor)
    differing = {n for n, t in pair.tuned.model.state_dict().items() if not torch.equal(t, plain.model.state_dict()[n])}
    assert differing == {n for n in differing if "q_proj" in n or "down_proj" in n} and len(differing) == 8


def test_metadata_of_another_base_is_refused_unless_allowed(tmp_path):
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model(), base_name="famous/model")
    right = load_model(str(tmp_path / "base")).card.weights_sha256
    (adapter / ADAPTER_METADATA).write_text(json.dumps({"schema": 1, "base_weights_sha256": right}))
    load(tmp_path, adapter)
    (adapter / ADAPTER_METADATA).write_text(json.dumps({"schema": 1, "base_weights_sha256": "f" * 64}))
    with pytest.raises(ModelError, match=rf"ffffffffffff.*{right[:12]}.*famous/model") as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "adapter-of-another-base"
    load(tmp_path, adapter, allow_base_mismatch=True)
    with pytest.raises(ModelError):
        load_pair(str(tmp_path / "base"), str(adapter))
    load_pair(str(tmp_path / "base"), str(adapter), allow_base_mismatch=True)


@pytest.mark.parametrize(
    ("stated", "warned"),
    [
        ("famous/other-model", True),
        ("/elsewhere/checkpoints/v2", True),
        ("somebody/BASE", False),
        ("somebody/base@main", False),
        ("/elsewhere/base/", False),
        ("embedded", False),
        ("", False),
    ],
)
def test_a_name_of_another_base_is_a_warning_where_no_hash_decides(tmp_path, stated, warned):
    path = save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model(), base_name=stated)
    found = load(tmp_path, adapter)
    assert len(found.warnings) == warned and all(repr(stated) in text and str(path) in text for text in found.warnings)
    assert load_pair(str(path), str(adapter)).tuned.warnings == found.warnings
    (adapter / ADAPTER_METADATA).write_text(
        json.dumps({"schema": 1, "base_weights_sha256": load_model(str(path)).card.weights_sha256})
    )
    assert load(tmp_path, adapter).warnings == (), "equal weights settle it"
    (adapter / ADAPTER_METADATA).write_text(json.dumps({"schema": 1, "base_weights_sha256": "f" * 64}))
    (allowed,) = load(tmp_path, adapter, allow_base_mismatch=True).warnings
    assert "ffffffffffff" in allowed and "was allowed" in allowed


@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("embed_tokens",)])
def test_an_adapter_of_a_wider_base_is_refused_with_both_shapes(tmp_path, targets):
    save_checkpoint(tmp_path / "base")
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=330, hidden_size=48, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    adapter = save_adapter(tmp_path / "adapter", LlamaForCausalLM(config), targets=targets)
    with pytest.raises(ModelError, match=r"lora_\w+.*has the shape \(.*\), the base needs \(") as caught:
        load(tmp_path, adapter, allow_base_mismatch=True)
    assert caught.value.code == "adapter-of-another-base"


def test_an_adapter_of_a_deeper_or_other_architecture_is_refused(tmp_path):
    save_checkpoint(tmp_path / "base", "gpt_neox")
    adapter = save_adapter(tmp_path / "adapter", tiny_model("llama"))
    with pytest.raises(ModelError, match="has no such module") as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "adapter-of-another-base"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "import the module 'os'"),
        ({"r": "many"}, "peft cannot apply"),
    ],
)
def test_configs_that_are_not_plain_lora_are_refused(tmp_path, change, text):
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError, match=text) as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "adapter-unsupported"


def test_adapters_without_readable_safetensors_are_refused(tmp_path):
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    weights = adapter / "adapter_model.safetensors"
    tensors = load_tensors(weights.read_bytes())
    weights.write_bytes(b"garbage")
    with pytest.raises(ModelError, match="is broken") as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "adapter-unsupported"
    weights.unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="an adapter that exists only as pickle is refused: load it in a") as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "unsafe-weights" and "AutoModel" not in str(caught.value)


def test_a_missing_adapter_tensor_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    tensors = load_tensors((adapter / "adapter_model.safetensors").read_bytes())
    dropped = sorted(tensors)[0]
    del tensors[dropped]
    save_file(tensors, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="lora_A"):
        load(tmp_path, adapter)


@pytest.mark.parametrize(("content", "says"), [("{", "cannot be read as JSON"), ("[]", "found list")])
def test_a_broken_config_says_where_to_get_another(tmp_path, content, says):
    save_checkpoint(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", tiny_model())
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ModelError, match=rf"{says}.*take adapter_config\.json from where it came from") as caught:
        load(tmp_path, adapter)
    assert caught.value.code == "adapter-unsupported"
