"""Foreign dictionaries give the codes and reconstructions that their own packages give."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from interop import published
from interop.golden_cases import CASES, TOLERANCE, agrees, copy_golden
from planted_dictionaries import dense_code
from saeaudit.dictionaries import load_dictionary
from saeaudit.interop import read_dictionary


@pytest.mark.parametrize("case", CASES)
def test_codes_and_reconstructions_are_those_of_the_package(case, tmp_path):
    directory = copy_golden(case, tmp_path)
    dictionary = read_dictionary(directory)
    agrees(dictionary, **load_file(directory / "expected.safetensors"))
    assert dictionary.provenance.site == "layers.3"
    assert dictionary.kind == "sae"
    dictionary.save(tmp_path / "native")
    agrees(load_dictionary(tmp_path / "native"), **load_file(directory / "expected.safetensors"))


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("release", [1, 2])
def test_gemma_scope_agrees_with_a_second_computation(tmp_path, release, lower):
    case = published.gemma_scope(tmp_path / "g", release=release, lower=lower)
    dictionary = read_dictionary(tmp_path / "g")
    agrees(dictionary, *case)
    assert dictionary.provenance.site == (None if release == 1 else "layers.3")


@pytest.mark.parametrize(
    "options",
    [
        *({"weighing": weighing, "seed": weighing} for weighing in (1, 2, 3, 4)),
        {"weighing": 3, "joint": 0.2, "total": 0.5},
        {"batchtopk": False},
        {"normalised": False},
        {"compiled": True},
    ],
    ids=str,
)
def test_crosscoders_agree_with_a_second_computation(tmp_path, options):
    case = published.crosscoder_learning(tmp_path / "c", **options)
    dictionary = read_dictionary(tmp_path / "c")
    assert dictionary.kind == "crosscoder"
    agrees(dictionary, *case)


def test_side_0_of_a_crosscoder_stays_side_0(tmp_path):
    published.crosscoder_learning(tmp_path / "c", normalised=False)
    stored = load_file(tmp_path / "c" / "model.safetensors")
    folded = read_dictionary(tmp_path / "c").fold()
    assert torch.equal(folded.W_dec[5, 0], stored["decoder.weight"][0, 5])
    assert torch.equal(folded.W_enc[5, 1], stored["encoder.weight"][1, :, 5])


def test_a_crosscoder_older_than_the_choice_of_weights(tmp_path):
    case = published.crosscoder_learning(tmp_path / "c", weighing=1)
    file = tmp_path / "c" / "model.safetensors"
    tensors = load_file(file)
    del tensors["code_normalization_id"]
    save_file(tensors, file)
    agrees(read_dictionary(tmp_path / "c"), *case)


def test_a_crosscoder_in_a_pt_file(tmp_path):
    case = published.crosscoder_learning(tmp_path / "c", compiled=True)
    file = tmp_path / "c" / "model.safetensors"
    torch.save(load_file(file), tmp_path / "c" / "model_final.pt")
    file.unlink()
    (tmp_path / "c" / "config.json").write_text('{"trainer": {"dict_class": "BatchTopKCrossCoder"}}')
    agrees(read_dictionary(tmp_path / "c"), *case)


@pytest.mark.parametrize("name", ["cc_weights.pt", "0.pt"])
def test_a_crosscoder_whose_input_factors_are_told(tmp_path, name):
    case = published.model_diff_replication(tmp_path / "c", factors=(0.4, 2.5))
    if name != "cc_weights.pt":  # a checkpoint of training
        (tmp_path / "c" / "cc_weights.pt").rename(tmp_path / "c" / name)
        (tmp_path / "c" / "cfg.json").rename(tmp_path / "c" / "0_cfg.json")
    dictionary = read_dictionary(tmp_path / "c" / name, format="model_diff_replication", input_factors=(0.4, 2.5))
    assert dictionary.kind == "crosscoder" and dictionary.provenance.site == "layers.3", "before block 4 is after 3"
    agrees(dictionary, *case)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "jumprelu"},
        {"activation": "topk"},
        {"factors": (0.4, 2.5)},
        {"biases": False, "underscores": False},
    ],
    ids=str,
)
def test_crosscode_agrees_with_a_second_computation(tmp_path, options):
    case = published.crosscode(tmp_path / "c", **options)
    dictionary = read_dictionary(tmp_path / "c", input_factors=options.get("factors"))
    assert dictionary.kind == "crosscoder"
    agrees(dictionary, *case)


@pytest.mark.parametrize(
    "options",
    [
        {"act_fn": "jumprelu"},
        {"act_fn": "jumprelu", "normalised": False},
        {"act_fn": "topk"},
        {"act_fn": "relu"},
        {"crosscoder": True},
        {"crosscoder": True, "normalised": False},
    ],
    ids=str,
)
def test_llamascopium_agrees_with_a_second_computation(tmp_path, options):
    case = published.llamascopium(tmp_path / "l", **options)
    dictionary = read_dictionary(tmp_path / "l")
    assert dictionary.kind == ("crosscoder" if "crosscoder" in options else "sae")
    assert dictionary.provenance.site == (None if "crosscoder" in options else "layers.3")
    agrees(dictionary, *case)


@pytest.mark.parametrize("norm_factor", [2.5, None])
@pytest.mark.parametrize("name", ["AutoEncoderTopK", "BatchTopKSAE", "JumpReluAutoEncoder", "GatedAutoEncoder"])
def test_a_training_backup_is_brought_back_to_raw_units(tmp_path, name, norm_factor):
    directory = copy_golden(f"dictionary_learning-{name}", tmp_path)
    expected = load_file(directory / "expected.safetensors")
    trainer = {"dict_class": name, "lm_name": "tiny", "submodule_name": "resid_post_layer_3"}
    state = torch.load(directory / "ae.pt", weights_only=True)
    backup = {"step": 7, "ae": state, "optimizer": {}, "config": trainer, "norm_factor": norm_factor}
    torch.save(backup, tmp_path / "backup.pt")
    factor = norm_factor or 1.0
    dictionary = read_dictionary(tmp_path / "backup.pt")
    agrees(dictionary, factor * expected["x"], expected["f"], factor * expected["x_hat"])


def test_a_checkpoint_finds_the_configuration_above_it(tmp_path):
    directory = copy_golden("dictionary_learning-AutoEncoder", tmp_path)
    (directory / "checkpoints").mkdir()
    (directory / "ae.pt").rename(directory / "checkpoints" / "ae_100.pt")
    agrees(read_dictionary(directory / "checkpoints"), **load_file(directory / "expected.safetensors"))


def test_the_default_of_sparsify_is_read_as_it_is_trained(tmp_path):
    """SAELens 6.54 transposes `W_dec` of this file, and does not subtract `b_dec` because the decoder is normalised."""
    directory = copy_golden("sparsify-default", tmp_path)
    stored, expected = load_file(directory / "sae.safetensors"), load_file(directory / "expected.safetensors")
    dictionary = read_dictionary(directory)
    assert torch.equal(dictionary.W_dec, stored["W_dec"]) and torch.equal(dictionary.W_enc, stored["encoder.weight"])
    nothing = dense_code(dictionary.encode(torch.zeros_like(expected["x"][:1])), published.F)
    largest = (stored["encoder.bias"] - stored["encoder.weight"] @ stored["b_dec"]).relu().topk(published.K)
    torch.testing.assert_close(nothing[0, largest.indices], largest.values, **TOLERANCE)
    assert torch.count_nonzero(nothing) == torch.count_nonzero(largest.values)


def test_a_square_file_is_turned_by_its_names(tmp_path):
    """With d_model = latents every orientation fits, so a guess by shape would pass unseen."""
    x, W_enc, W_dec = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))
    arrays = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(4),
        "threshold": torch.zeros(4),
    }
    np.savez(tmp_path / "params.npz", **{name: array.numpy() for name, array in arrays.items()})
    f = (x @ W_enc).relu()
    agrees(read_dictionary(tmp_path), x, f, f @ W_dec)
