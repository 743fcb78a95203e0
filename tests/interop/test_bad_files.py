"""Files that are not what they say: each is refused with its own code, and nothing in them runs."""

import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import saeaudit.interop
from interop import published
from interop.golden_cases import copy_golden
from saeaudit.errors import ArtifactError
from saeaudit.interop import locate, read_dictionary


def refused(path, **options) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        read_dictionary(path, **options)
    assert str(path) in str(caught.value)
    return caught.value


def change_tensors(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def change_json(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


SAFETENSORS = {
    "saelens-jumprelu": ("sae_weights.safetensors", "b_enc", "W_enc"),
    "sparsify-default": ("sae.safetensors", "b_dec", "W_dec"),
    "crosscoder_learning": ("model.safetensors", "decoder.bias", "encoder.weight"),
    "gemma_scope": ("params.safetensors", "threshold", "w_enc"),
    "llamascopium": ("sae_weights.safetensors", "b_D", "W_E"),
}


@pytest.fixture
def foreign(request, tmp_path):
    """Return (directory, file of weights, name of a vector, name of a matrix)."""
    name = request.param
    if name == "crosscoder_learning":
        directory = tmp_path / name
        published.crosscoder_learning(directory)
    elif name == "gemma_scope":
        directory = tmp_path / name
        published.gemma_scope(directory, release=2, lower=True)
    elif name == "llamascopium":
        directory = tmp_path / name
        published.llamascopium(directory)
    else:
        directory = copy_golden(name, tmp_path)
    file, vector, matrix = SAFETENSORS[name]
    return directory, directory / file, vector, matrix


every_format = pytest.mark.parametrize("foreign", SAFETENSORS, indirect=True)


@every_format
def test_a_good_file_is_read(foreign):
    assert read_dictionary(foreign[0]).n_latents == published.F


@every_format
def test_a_missing_tensor(foreign):
    directory, file, vector, _ = foreign
    change_tensors(file, lambda tensors: tensors.pop(vector))
    error = refused(directory)
    assert error.code == "keys-missing" and f"it has no {vector}".lower() in str(error).lower()


@every_format
def test_an_unknown_tensor(foreign):
    directory, file, *_ = foreign
    change_tensors(file, lambda tensors: tensors.update(W_skip=torch.ones(2, 2)))
    error = refused(directory)
    assert error.code == "keys-unexpected" and "W_skip" in str(error)


@every_format
def test_a_transposed_matrix(foreign):
    directory, file, _, matrix = foreign
    change_tensors(file, lambda tensors: tensors.update({matrix: tensors[matrix].mT.contiguous()}))
    error = refused(directory)
    assert error.code == "shape" and "never turned" in str(error)


@every_format
def test_a_cut_file(foreign):
    directory, file, *_ = foreign
    file.write_bytes(file.read_bytes()[:-100])
    assert refused(directory).code == "artifact-broken"


@every_format
def test_a_value_that_is_not_finite(foreign):
    directory, file, vector, _ = foreign
    change_tensors(file, lambda tensors: tensors[vector].view(-1)[0].fill_(torch.inf))
    assert refused(directory).code == "not-finite"


def test_the_size_in_the_configuration_is_believed_before_the_tensors(tmp_path):
    directory = copy_golden("saelens-standard", tmp_path)
    change_json(directory / "cfg.json", d_in=published.F, d_sae=published.D)
    assert refused(directory).code == "shape"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"metadata": {"sae_lens_version": "7.0.0"}}, "format-version"),
        ({"metadata": {"sae_lens_version": "next"}}, "format-version"),
        ({"architecture": "transcoder"}, "not-expressible"),
        ({"normalize_activations": "layer_norm"}, "not-expressible"),
        ({"normalize_activations": "constant_norm_rescale"}, "not-expressible"),
        ({"normalize_activations": "expected_average_only_in"}, "needs-calibration"),
        (
            {"metadata": {"sae_lens_version": "6.1.0", "diff": {"base": "a", "tuned": "b", "sign": -1}}},
            "not-expressible",
        ),
        ({"d_in": "6"}, "config-invalid"),
        ({"d_sae": None}, "config-invalid"),
    ],
)
def test_saelens_settings_that_cannot_be_read(tmp_path, change, code):
    directory = copy_golden("saelens-standard", tmp_path)
    change_json(directory / "cfg.json", **change)
    assert refused(directory).code == code


@pytest.mark.parametrize(
    ("case", "change", "code"),
    [
        ("saelens-topk", {"k": 0}, "config-invalid"),
        ("saelens-topk", {"k": True}, "config-invalid"),
        ("saelens-topk", {"k": published.F + 1}, "config-invalid"),
        ("saelens-old", {"activation_fn_str": "tanh-relu"}, "not-expressible"),
        ("saelens-old", {"normalize_activations": True}, "needs-calibration"),
        ("saelens-old-topk", {"activation_fn_kwargs": None}, "config-invalid"),
        ("sparsify-default", {"transcode": True}, "not-expressible"),
        ("sparsify-default", {"skip_connection": True}, "not-expressible"),
        ("sparsify-default", {"activation": "groupmax"}, "not-expressible"),
        ("sparsify-default", {"num_latents": published.D}, "shape"),
        ("dictionary_learning-BatchTopKSAE", {"trainer": {"dict_class": "IdentityDict"}}, "not-expressible"),
        ("dictionary_learning-AutoEncoderNew", {"trainer": {"dict_class": "AutoEncoder"}}, "keys-missing"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, case, change, code):
    directory = copy_golden(case, tmp_path)
    change_json(next(directory.glob("c*.json")), **change)
    assert refused(directory).code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"sae_type": "clt"}, "not-expressible"),
        ({"norm_activation": "token-wise"}, "not-expressible"),
        ({"use_glu_encoder": True}, "not-expressible"),
        ({"hook_point_out": "blocks.3.hook_mlp_out"}, "not-expressible"),
        ({"act_fn": "softplus"}, "not-expressible"),
        ({"act_fn": "topk"}, "not-expressible"),
        ({"act_fn": "batchtopk"}, "needs-calibration"),
        ({"act_fn": "jumprelu"}, "keys-missing"),
        ({"d_model": published.D + 1}, "shape"),
    ],
)
def test_llamascopium_settings_that_cannot_be_read(tmp_path, change, code):
    published.llamascopium(tmp_path / "l")
    change_json(tmp_path / "l" / "config.json", **change)
    assert refused(tmp_path / "l").code == code


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"act_fn": "jumprelu"}, "codes of their own"),
        ({"hook_points": ["a", "b", "c"]}, "3 heads"),
        ({"hook_points": ["blocks.3.hook_resid_post", "blocks.4.hook_resid_post"]}, "places of one model"),
    ],
)
def test_llamascopium_crosscoders_that_are_none_of_two_models(tmp_path, change, words):
    published.llamascopium(tmp_path / "l", crosscoder=True)
    change_json(tmp_path / "l" / "config.json", **change)
    error = refused(tmp_path / "l")
    assert error.code == "not-expressible" and words in str(error)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("ReLUActivation", "BatchTopkActivation", "needs-calibration"),
        ("ReLUActivation", "GroupMaxActivation", "not-expressible"),
        (f"d_model: {published.D}", "d_model: -1", "config-invalid"),
        ("activation_fn:", "activation_fn: [", "artifact-broken"),
    ],
)
def test_crosscode_settings_that_cannot_be_read(tmp_path, old, new, code):
    published.crosscode(tmp_path / "c")
    file = tmp_path / "c" / "model_cfg.yaml"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ArtifactError) as caught:
        read_dictionary(tmp_path / "c")
    assert caught.value.code == code


def test_a_crosscode_of_several_hookpoints(tmp_path):
    published.crosscode(tmp_path / "c")
    tensors = torch.load(tmp_path / "c" / "model.pt", weights_only=True)
    twice = {"_W_enc_XiDiL": 1, "_W_dec_LXoDo": 2, "_b_dec_XoDo": 1}
    twice |= {f"folded_scaling_factors_{way}": 1 for way in ("in_Xi", "out_Xo")}
    tensors |= {name: tensors[name].repeat_interleave(2, axis) for name, axis in twice.items()}
    torch.save(tensors, tmp_path / "c" / "model.pt")
    assert "2 hookpoints" in str(refused(tmp_path / "c"))


@pytest.mark.parametrize(
    ("make", "factors", "code"),
    [
        (published.model_diff_replication, None, "needs-calibration"),
        (published.model_diff_replication, (1.0, 0.0), "config-invalid"),
        (published.model_diff_replication, (1.0, float("nan")), "config-invalid"),
        (partial(published.crosscode, factors=(2.0, 3.0)), None, "needs-calibration"),
        (published.crosscode, (1.0, 1.0), "config-invalid"),
        (published.crosscoder_learning, (1.0, 1.0), "config-invalid"),
    ],
)
def test_the_factors_of_the_inputs_are_told_exactly_where_the_files_do_not_say(tmp_path, make, factors, code):
    make(tmp_path / "c")
    assert refused(tmp_path / "c", input_factors=factors).code == code


def test_an_old_scale_of_the_values_is_not_dropped_unless_it_is_one(tmp_path):
    directory = copy_golden("saelens-old", tmp_path)
    assert read_dictionary(directory).kind == "sae"
    change_tensors(directory / "sae_weights.safetensors", lambda tensors: tensors["scaling_factor"].mul_(2))
    assert "scaling_factor" in str(refused(directory))


@pytest.mark.parametrize(("weighing", "code"), [(5, "not-expressible"), (6, "format-version")])
def test_crosscoders_with_another_code(tmp_path, weighing, code):
    published.crosscoder_learning(tmp_path / "c")
    change_tensors(
        tmp_path / "c" / "model.safetensors", lambda tensors: tensors["code_normalization_id"].fill_(weighing)
    )
    assert refused(tmp_path / "c").code == code


@pytest.mark.parametrize("case", ["crosscoder", "BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_stands_for_none(tmp_path, case):
    """dictionary_learning keeps -1 until step 1 000; taken as a number it makes every positive latent active."""
    if case == "crosscoder":
        published.crosscoder_learning(tmp_path / "c")
        directory = tmp_path / "c"
        change_tensors(directory / "model.safetensors", lambda tensors: tensors["threshold"].fill_(-1))
    else:
        directory = copy_golden(f"dictionary_learning-{case}", tmp_path)
        torch.save(torch.load(directory / "ae.pt") | {"threshold": torch.tensor(-1.0)}, directory / "ae.pt")
    assert refused(directory).code == "needs-calibration"


class Payload:
    """Runs a command when a pickle of it is opened without a guard."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def pt_file(format, tmp_path):
    """Return a good `.pt` file of a format."""
    if format == "dictionary_learning":
        return copy_golden("dictionary_learning-AutoEncoder", tmp_path) / "ae.pt"
    directory = tmp_path / format
    getattr(published, format)(directory)
    if format == "crosscoder_learning":
        torch.save(load_file(directory / "model.safetensors"), directory / "model_final.pt")
        (directory / "model.safetensors").unlink()
        (directory / "config.json").write_text('{"trainer": {"dict_class": "CrossCoder"}}')
    return next(directory.glob("*.pt"))


@pytest.mark.parametrize("unguarded", ["0", "1"])
@pytest.mark.parametrize(
    "format", ["dictionary_learning", "crosscoder_learning", "model_diff_replication", "crosscode"]
)
def test_code_in_a_pt_file_does_not_run(tmp_path, monkeypatch, format, unguarded):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", unguarded)
    file = pt_file(format, tmp_path)
    assert locate(file.parent) == (file, format)
    torch.save(torch.load(file, weights_only=True) | {"extra": Payload(tmp_path / "ran")}, file)
    assert refused(file).code == "unsafe-file"
    assert not (tmp_path / "ran").exists()
    torch.load(file, weights_only=False)
    assert (tmp_path / "ran").exists(), "the payload works, so the guard was what stopped it"


def test_code_in_a_yaml_file_does_not_run(tmp_path):
    published.crosscode(tmp_path / "c")
    file = tmp_path / "c" / "model_cfg.yaml"
    file.write_text(file.read_text() + f"dtype: !!python/object/apply:os.mkdir ['{tmp_path / 'ran'}']\n")
    assert read_dictionary(tmp_path / "c").n_latents == published.F
    assert not (tmp_path / "ran").exists()
    yaml.unsafe_load(file.read_text())
    assert (tmp_path / "ran").exists(), "the payload works, so the loader was what stopped it"


def test_objects_in_an_npz_file_are_not_opened(tmp_path):
    published.gemma_scope(tmp_path / "g", release=1)
    arrays = dict(np.load(tmp_path / "g" / "params.npz"))
    arrays["b_enc"] = np.array([Payload(tmp_path / "ran")], dtype=object)
    np.savez(tmp_path / "g" / "params.npz", **arrays)
    assert refused(tmp_path / "g").code == "unsafe-file"
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0, 10, 500])
@pytest.mark.parametrize("name", ["ae.pt", "params.npz"])
def test_a_cut_pt_or_npz_file(tmp_path, name, kept):
    if name == "ae.pt":
        directory = copy_golden("dictionary_learning-AutoEncoder", tmp_path)
    else:
        directory = tmp_path / "g"
        published.gemma_scope(directory, release=1)
    (directory / name).write_bytes((directory / name).read_bytes()[:kept])
    assert refused(directory).code == "artifact-broken"


def test_a_pt_file_of_something_else(tmp_path):
    directory = copy_golden("dictionary_learning-AutoEncoder", tmp_path)
    torch.save(torch.ones(3), directory / "ae.pt")
    assert refused(directory).code == "artifact-broken"


def test_torch_load_stands_in_one_file_and_is_guarded():
    found = {}
    for file in Path(saeaudit.interop.__file__).parents[1].rglob("*.py"):
        calls = re.findall(r"torch\.load\([^)]*\)", file.read_text())
        found |= {file.name: calls} if calls else {}
    assert list(found) == ["torch_file.py"]
    assert all("weights_only=True" in call for call in found["torch_file.py"])


def test_a_directory_without_a_dictionary(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    error = refused(tmp_path)
    assert error.code == "format-unknown" and "sae_weights.safetensors" in str(error)
    assert refused(tmp_path / "nowhere").code == "artifact-missing"
    assert refused(copy_golden("saelens-topk", tmp_path), format="sparsify").code == "format-unknown"


def test_several_dictionaries_in_one_directory(tmp_path):
    directory = copy_golden("saelens-topk", tmp_path)
    published.gemma_scope(tmp_path / "g", release=1)
    (tmp_path / "g" / "params.npz").rename(directory / "params.npz")
    error = refused(directory)
    assert error.code == "format-ambiguous" and "params.npz (gemma_scope)" in str(error)
    assert read_dictionary(directory, format="saelens").config.k == published.K
    assert read_dictionary(directory / "params.npz").config.sparsity == "jumprelu"


def test_embedding_dictionaries_are_refused(tmp_path):
    published.gemma_scope(tmp_path / "embedding" / "width_16k", release=1)
    assert refused(tmp_path / "embedding" / "width_16k").code == "not-expressible"


def test_transcoders_are_refused(tmp_path):
    published.gemma_scope(tmp_path / "g", release=2)
    change_tensors(
        tmp_path / "g" / "params.safetensors", lambda tensors: tensors.update(affine_skip_connection=torch.eye(6))
    )
    assert "transcoder" in str(refused(tmp_path / "g"))


def test_a_dictionary_without_its_configuration(tmp_path):
    directory = copy_golden("saelens-topk", tmp_path)
    (directory / "cfg.json").unlink()
    with pytest.raises(ArtifactError) as caught:
        read_dictionary(directory)
    assert caught.value.code == "artifact-missing"
