"""From one format to another and back: equal to the last bit where no number has to change."""

import json

import pytest
import torch
from safetensors.torch import load_file

from interop import published
from interop.golden_cases import copy_golden
from planted_dictionaries import dense_code, random_dictionary
from saeaudit.dictionaries import DictionaryConfig, Provenance, build, load_dictionary
from saeaudit.errors import ArtifactError
from saeaudit.interop import read_dictionary, write_dictionary
from saeaudit.statistics import SiteStatistics

# Nothing to fold: neither gates, nor decoder norms that belong to the encoder.
LOSSLESS = ["jumprelu", "standard", "standard-no-b_dec", "topk"]
LOGARITHM = {"rtol": 3e-7, "atol": 0}  # the native form of a JumpReLU holds the logarithm of its thresholds


def same_tensors(one, other, *, except_for=()):
    one, other = load_file(one), load_file(other)
    assert one.keys() == other.keys()
    for name in one.keys() - set(except_for):
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("case", LOSSLESS)
def test_saelens_to_native_and_back_keeps_every_bit(case, tmp_path):
    directory = copy_golden(f"saelens-{case}", tmp_path)
    write_dictionary(read_dictionary(directory), tmp_path / "native")
    write_dictionary(load_dictionary(tmp_path / "native"), tmp_path / "back", format="saelens")
    files = [there / "sae_weights.safetensors" for there in (directory, tmp_path / "back")]
    same_tensors(*files, except_for=["threshold"])
    if case == "jumprelu":
        torch.testing.assert_close(*(load_file(file)["threshold"] for file in files), **LOGARITHM)
    before, after = (json.loads((d / "cfg.json").read_text()) for d in (directory, tmp_path / "back"))
    for name in ("architecture", "d_in", "d_sae", "apply_b_dec_to_input", "k"):
        assert before.get(name) == after.get(name), name
    for name in ("model_name", "hook_name", "context_size", "prepend_bos"):
        assert before["metadata"][name] == after["metadata"][name], name


@pytest.mark.parametrize("case", ["default", "free-norms"])
def test_sparsify_to_native_and_back_keeps_every_bit(case, tmp_path):
    directory = copy_golden(f"sparsify-{case}", tmp_path)
    write_dictionary(read_dictionary(directory), tmp_path / "native")
    back = tmp_path / "back" / "layers.3"
    write_dictionary(load_dictionary(tmp_path / "native"), back, format="sparsify")
    same_tensors(directory / "sae.safetensors", back / "sae.safetensors")
    assert read_dictionary(back).provenance.site == "layers.3"


def test_a_bias_that_is_not_subtracted_as_sparsify(tmp_path):
    dictionary, x = random_of("sae", {"sparsity": "topk", "k": 3})
    write_dictionary(dictionary, tmp_path / "s", format="sparsify")
    again = read_dictionary(tmp_path / "s")
    code, code_again = (dense_code(one.encode(x), 20) for one in (dictionary, again))
    torch.testing.assert_close(code_again, code, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        again.decode(again.encode(x)), dictionary.decode(dictionary.encode(x)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"weighing": 2}, {"weighing": 3}, {"weighing": 4}, {"normalised": False}, {"batchtopk": False}],
    ids=str,
)
def test_crosscoder_learning_to_native_and_back(options, tmp_path):
    """Every weight keeps its bits; the scale is stored as its reciprocal, so its last bit may differ."""
    case = published.crosscoder_learning(tmp_path / "c", **options)
    write_dictionary(read_dictionary(tmp_path / "c"), tmp_path / "native")
    write_dictionary(load_dictionary(tmp_path / "native"), tmp_path / "back", format="crosscoder_learning")
    inputs = ("activation_mean", "activation_std", "activation_global_scale", "target_rms")
    files = [directory / "model.safetensors" for directory in (tmp_path / "c", tmp_path / "back")]
    same_tensors(*files, except_for=inputs)
    before, after = (load_file(file) for file in files)
    scale, std = after["activation_global_scale"], after["activation_std"]
    torch.testing.assert_close(scale, before["activation_global_scale"], rtol=2e-7, atol=0)
    torch.testing.assert_close(after["target_rms"] / std.square().sum(-1).sqrt(), scale, rtol=1e-6, atol=0)
    again = read_dictionary(tmp_path / "back")
    x = torch.as_tensor(case.x, dtype=torch.float32)
    torch.testing.assert_close(again.decode(again.encode(x)), torch.as_tensor(case.x_hat).float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["sae", "diff"])
def test_a_trained_dictionary_as_saelens(kind, tmp_path):
    """Shift and scale are folded away; values of the code stay the same, as thresholds do."""
    dictionary, x = random_dictionary(kind)
    cards = {"base": {"source": "small"}, "tuned": {"source": "small-tuned"}}
    dictionary.provenance = Provenance(site="layers.5", cards=cards)
    write_dictionary(dictionary, tmp_path / "s", format="saelens")
    config = json.loads((tmp_path / "s" / "cfg.json").read_text())
    assert config["architecture"] == "jumprelu" and config["metadata"]["hook_name"] == "blocks.5.hook_resid_post"
    again = read_dictionary(tmp_path / "s")
    assert again.kind == kind and again.provenance.site == "layers.5"
    wanted = {"base": "small", "tuned": "small-tuned"} if kind == "diff" else {"base": "small"}
    assert {side: card["source"] for side, card in again.provenance.cards.items()} == wanted
    code, code_again = (dense_code(one.encode(x), 20) for one in (dictionary, again))
    assert bool((code > 0).any())
    torch.testing.assert_close(code_again, code, rtol=1e-5, atol=1e-5)
    for one, other in ((dictionary, again), (dictionary.fold(), again.fold())):
        torch.testing.assert_close(other.decode(other.encode(x)), one.decode(one.encode(x)), rtol=1e-5, atol=1e-5)


RULES = [
    {"sparsity": "relu"},
    {"sparsity": "gated"},
    {"sparsity": "jumprelu"},
    {"sparsity": "topk", "k": 3},
    {"sparsity": "matryoshka", "k": 3},
    {"sparsity": "batchtopk", "k": 3, "published": {"pre_bias": True}},
    {"sparsity": "batchtopk", "k": 3, "published": {"tied": "columns"}},
]


def random_of(kind, settings):
    """A dictionary of any rule with weights, biases and thresholds of its own, and rows for it."""
    shape = (2, 6) if kind == "crosscoder" else (6,)
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(50, *shape, generator=generator) + torch.randn(shape, generator=generator)
    config = DictionaryConfig.model_validate({"kind": kind, "n_latents": 20} | settings)
    dictionary = build(config, SiteStatistics(x.mean(0), x.std().expand(shape[:-1]), len(x)), seed=0)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
        dictionary.coder.project_weights()
        dictionary.coder.threshold.fill_(0.3)
    return dictionary, x


@pytest.mark.parametrize("settings", RULES, ids=str)
def test_every_rule_as_saelens(settings, tmp_path):
    dictionary, x = random_of("diff", settings)
    write_dictionary(dictionary, tmp_path / "s", format="saelens")
    again = read_dictionary(tmp_path / "s")
    code, code_again = (dense_code(one.encode(x), 20) for one in (dictionary, again))
    assert bool((code > 0).any()) and bool((code == 0).any())
    torch.testing.assert_close(code_again, code, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        again.decode(again.encode(x)), dictionary.decode(dictionary.encode(x)), rtol=1e-5, atol=1e-5
    )
    subtracts = json.loads((tmp_path / "s" / "cfg.json").read_text())["apply_b_dec_to_input"]
    assert subtracts == ("pre_bias" in settings.get("published", {})), (
        "a bias that is subtracted is not folded, and no other is subtracted"
    )


def test_topk_by_decoder_norms_has_no_other_form(tmp_path):
    dictionary, _ = random_of("sae", {"sparsity": "topk", "k": 3, "published": {"tied": "columns"}})
    with pytest.raises(ArtifactError) as caught:
        write_dictionary(dictionary, tmp_path / "s", format="saelens")
    assert caught.value.code == "not-expressible"


@pytest.mark.parametrize(
    "settings",
    [{"sparsity": "relu"}, *({"k": 3, "crosscoder": {"score": score}} for score in ("sum", "concat", "mixed", "none"))],
    ids=str,
)
def test_every_score_as_crosscoder_learning(settings, tmp_path):
    dictionary, x = random_of("crosscoder", settings)
    write_dictionary(dictionary, tmp_path / "c", format="crosscoder_learning")
    again = read_dictionary(tmp_path / "c")
    code, code_again = (dense_code(one.encode(x), 20) for one in (dictionary, again))
    assert bool((code > 0).any()) and bool((code == 0).any())
    torch.testing.assert_close(code_again, code, rtol=1e-5, atol=1e-5)
    assert again.config.crosscoder == dictionary.config.crosscoder


def test_thresholds_do_not_move_with_the_scale(tmp_path):
    """SAELens issues 404 and 763: folding a scale into the weights without its threshold changed who is active."""
    dictionary, _ = random_dictionary("sae")
    dictionary.coder.scale.fill_(50.0)
    write_dictionary(dictionary, tmp_path / "s", format="saelens")
    stored = load_file(tmp_path / "s" / "sae_weights.safetensors")
    assert torch.equal(stored["threshold"], torch.full((20,), float(dictionary.threshold)))
    torch.testing.assert_close(stored["W_dec"], 50 * dictionary.W_dec)


def test_a_trained_crosscoder_as_crosscoder_learning(tmp_path):
    dictionary, x = random_dictionary("crosscoder")
    write_dictionary(dictionary, tmp_path / "c", format="crosscoder_learning")
    again = read_dictionary(tmp_path / "c")
    torch.testing.assert_close(
        dense_code(again.encode(x), 20), dense_code(dictionary.encode(x), 20), rtol=1e-5, atol=1e-5
    )
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "shift", "threshold"):
        assert torch.equal(getattr(again.coder, name), getattr(dictionary.coder, name)), name


@pytest.mark.parametrize(
    ("kind", "format"),
    [
        ("crosscoder", "saelens"),
        ("sae", "crosscoder_learning"),
        ("diff", "crosscoder_learning"),
        ("sae", "sparsify"),  # BatchTopK
        ("diff", "sparsify"),
        ("crosscoder", "sparsify"),
    ],
)
def test_what_a_format_has_no_form_for(kind, format, tmp_path):
    dictionary, _ = random_dictionary(kind)
    with pytest.raises(ArtifactError) as caught:
        write_dictionary(dictionary, tmp_path / "o", format=format)
    assert caught.value.code == "not-expressible"
    assert not (tmp_path / "o").exists()


def test_thresholds_a_latent_have_no_form_in_crosscoder_learning(tmp_path):
    published.crosscoder_learning(tmp_path / "c", weighing=3, joint=0.2, total=0.5)
    with pytest.raises(ArtifactError) as caught:
        write_dictionary(read_dictionary(tmp_path / "c"), tmp_path / "o", format="crosscoder_learning")
    assert caught.value.code == "not-expressible"


def test_a_native_directory_is_read_as_one(tmp_path):
    dictionary, _ = random_dictionary("diff")
    dictionary.save(tmp_path / "d")
    assert (
        read_dictionary(tmp_path / "d").kind == read_dictionary(tmp_path / "d" / "weights.safetensors").kind == "diff"
    )
