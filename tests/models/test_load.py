import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load, save_file

from saeaudit.errors import ConfigError, ModelError
from saeaudit.models import greedy, load_model, weights_sha256
from tiny import FAMILIES, TEXTS, save_adapter, save_checkpoint, tiny_model


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "model")


def code(caught):
    return caught.value.code


@pytest.mark.parametrize("family", FAMILIES)
def test_a_directory_loads_as_it_was_saved(tmp_path, family):
    path = save_checkpoint(tmp_path / family, family, 5)
    loaded, original = load_model(str(path), dtype="float32"), tiny_model(family, 5)
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    ids = torch.arange(3, 20)[None]
    assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    card = loaded.card
    assert (card.kind, card.n_layers, card.d_model, card.n_vocab) == ("directory", 4, 32, 320)
    assert card.architecture == original.config.model_type
    assert card.weights_sha256 == weights_sha256(original.state_dict())
    assert card.dtype == "float32" and card.quantisation is None and card.adapter_sha256 is None
    # With its own tokenizer on both sides: transformers gives a Qwen2 directory the pre-tokeniser of Qwen2.
    assert greedy(loaded.model, loaded.tokenizer, TEXTS, n_new=3) == greedy(original, loaded.tokenizer, TEXTS, n_new=3)


def test_the_hash_does_not_depend_on_the_dtype_asked_for(checkpoint):
    cards = [load_model(str(checkpoint), dtype=dtype).card for dtype in ("float32", "bfloat16", "float16")]
    assert len({card.weights_sha256 for card in cards}) == 1
    assert [card.dtype for card in cards] == ["float32", "bfloat16", "float16"]


def test_a_tied_head_is_not_missing(tmp_path):
    path = save_checkpoint(tmp_path / "tied", model=tiny_model("llama", 0, tie_word_embeddings=True))
    model = load_model(str(path), dtype="float32").model
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_what_was_hashed_is_what_runs_even_if_the_file_changes_later(checkpoint):
    loaded = load_model(str(checkpoint), dtype="float32")
    file = checkpoint / "model.safetensors"
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        handle.write(bytes(file.stat().st_size // 2))
    assert weights_sha256(loaded.model.state_dict()) == loaded.card.weights_sha256


def test_nan_in_a_weight_is_refused_by_name(checkpoint):
    weights = load((checkpoint / "model.safetensors").read_bytes())
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.2\.mlp\.up_proj\.weight") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "weights-not-finite"


def test_float16_overflow_is_refused(checkpoint):
    weights = load((checkpoint / "model.safetensors").read_bytes())
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    load_model(str(checkpoint), dtype="float32")
    with pytest.raises(ModelError, match=r"as torch\.float16"):
        load_model(str(checkpoint), dtype="float16")


def test_missing_tensors_are_refused_never_invented(checkpoint):
    weights = load((checkpoint / "model.safetensors").read_bytes())
    del weights["model.layers.3.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.3\.mlp\.up_proj\.weight") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "weights-missing"


def test_pickles_are_refused_with_a_way_out_and_never_opened(checkpoint, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (checkpoint / "model.safetensors").unlink()
    torch.save(Payload(), checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.*save_pretrained") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "unsafe-weights"
    assert not (tmp_path / "owned").exists()


def test_code_inside_a_checkpoint_is_never_run(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text(
        f"open({str(tmp_path / 'owned')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    with pytest.raises(ModelError, match="never runs") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "remote-code"
    assert not (tmp_path / "owned").exists()


def test_code_beside_a_known_architecture_is_ignored(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    load_model(str(checkpoint))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_cannot_choose_an_attention_kernel_from_the_hub(checkpoint, key):
    config = json.loads((checkpoint / "config.json").read_text())
    config[key] = "somebody/kernel"
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert load_model(str(checkpoint)).model.config._attn_implementation in ("sdpa", "eager")


def test_quantised_checkpoints_are_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"quantised \(gptq\)") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "quantised-checkpoint"


def test_broken_files_give_a_model_error(checkpoint):
    data = (checkpoint / "model.safetensors").read_bytes()
    for broken in (data[: len(data) // 2], b"garbage", b""):
        (checkpoint / "model.safetensors").write_bytes(broken)
        with pytest.raises(ModelError) as caught:
            load_model(str(checkpoint))
        assert code(caught) == "model-unreadable"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{not json", "cannot be read as JSON"),
        ("\udcff", "cannot be read as JSON"),
        ("[]", "found list"),
        ('{"hidden_size": 32}', "names no model_type"),
    ],
)
def test_a_broken_config_says_where_to_get_another(checkpoint, content, says):
    (checkpoint / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=rf"{says}.*take config\.json from where it came from") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "model-unreadable"


def test_a_missing_tokenizer_is_named(checkpoint):
    for path in checkpoint.glob("*token*"):
        path.unlink()
    with pytest.raises(ModelError, match="copy the tokenizer files of the base") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "tokenizer-missing"


@pytest.mark.parametrize(
    ("make", "expected", "text"),
    [
        (lambda p: p / "nothing-here", "path-missing", "no such file or directory"),
        (lambda p: p / "model.gguf", "path-missing", "no such file or directory"),
        (lambda p: p / "empty", "not-a-model", "found: nothing"),
        (lambda p: p / "file.txt", "not-a-model", "neither a"),
    ],
)
def test_paths_that_are_no_models(tmp_path, make, expected, text):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ModelError, match=text) as caught:
        load_model(str(make(tmp_path)))
    assert code(caught) == expected


def test_a_directory_without_weights_lists_what_it_holds(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no weights.*config\.json") as caught:
        load_model(str(checkpoint))
    assert code(caught) == "not-a-model"


@pytest.mark.parametrize("source", ["nobody/no-such-model", "no-such-model", "nobody/model@v2"])
def test_a_hub_id_without_network_says_so(source):
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE") as caught:
        load_model(source)
    assert code(caught) == "hub-unavailable"


@pytest.mark.parametrize("source", ["", "../x", "a/b/c", "-x", "a b"])
def test_what_cannot_be_a_hub_id_is_taken_for_a_path(source):
    with pytest.raises(ModelError) as caught:
        load_model(source)
    assert code(caught) in ("path-missing", "not-a-model")


def test_a_cached_hub_model_loads_offline_with_its_commit(tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "models--some--model"
    save_checkpoint(cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for source in ("some/model", f"some/model@{commit}"):
        card = load_model(source).card
        assert (card.kind, card.revision, card.source) == ("hub", commit, source)


def test_a_broken_gguf_file_is_a_model_error(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError) as caught:
        load_model(str(tmp_path / "x.gguf"))
    assert code(caught) == "model-unreadable"


def test_loading_is_silent_and_leaves_the_settings_of_transformers(checkpoint, capfd):
    from transformers.utils import logging as hf

    before = hf.get_verbosity(), hf.is_progress_bar_enabled()
    load_model(str(checkpoint))
    assert capfd.readouterr() == ("", "")
    assert (hf.get_verbosity(), hf.is_progress_bar_enabled()) == before
    assert logging.getLogger("transformers").level == before[0]


def test_unknown_dtype_and_missing_device_come_before_any_reading(tmp_path):
    with pytest.raises(ConfigError):
        load_model(str(tmp_path), dtype=torch.int8)
    with pytest.raises(ModelError, match="cannot be used here"):
        load_model(str(tmp_path), device="cuda:97")


def test_an_adapter_without_base_shows_the_name_and_fetches_nothing(tmp_path, monkeypatch):
    adapter = save_adapter(tmp_path / "adapter", tiny_model(), base_name="famous/model")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("fetched"))
    with pytest.raises(ModelError, match="'famous/model'") as caught:
        load_model(str(adapter))
    assert code(caught) == "adapter-without-base"
    with pytest.raises(ModelError, match="is an adapter itself"):
        load_model(str(adapter), base=str(shutil.copytree(adapter, tmp_path / "other")))
