"""`convert` as a user sees it."""

from typing import get_args, get_type_hints

import pytest
from safetensors.torch import load_file

from interop import published
from interop.golden_cases import copy_golden
from planted_dictionaries import dense_code
from saeaudit.cli.convert import convert
from saeaudit.dictionaries import load_dictionary
from saeaudit.interop import read_dictionary
from saeaudit.interop.formats import Format, Target


def test_from_another_package_to_the_native_form(saeaudit, tmp_path):
    directory = copy_golden("sparsify-default", tmp_path)
    done = saeaudit("convert", directory, tmp_path / "native")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"sae: {published.F} latents of width {published.D}, topk",
        f"dictionary: {tmp_path / 'native'}",
    ]
    expected = load_file(directory / "expected.safetensors")
    code = load_dictionary(tmp_path / "native").encode(expected["x"])
    assert (dense_code(code, published.F) - expected["f"]).abs().max() < 1e-5


@pytest.mark.parametrize("target", ["saelens", "crosscoder_learning"])
def test_to_another_package(saeaudit, tmp_path, target):
    if target == "saelens":
        source = copy_golden("dictionary_learning-BatchTopKSAE", tmp_path)
    else:
        source = tmp_path / "c"
        published.crosscoder_learning(source)
    done = saeaudit("convert", source, tmp_path / "out", "--to", target)
    assert done.code == 0, done.err
    assert read_dictionary(tmp_path / "out", format=target).n_latents == published.F


def test_settings_come_from_a_file_and_from_set_and_flags_win(saeaudit, tmp_path):
    published.model_diff_replication(tmp_path / "c", factors=(0.5, 0.25))
    missing = saeaudit("convert", tmp_path / "c", tmp_path / "out")
    assert missing.code == 2 and "--set" in missing.err
    (tmp_path / "c.toml").write_text('to = "saelens"\ninput_factors = [0.5, 1]\n')
    options = ["--config", tmp_path / "c.toml", "--to", "native", "--set", "input_factors=0.5,0.25"]
    done = saeaudit("convert", tmp_path / "c", tmp_path / "out", *options)
    assert done.code == 0, done.err
    assert load_dictionary(tmp_path / "out").coder.scale.tolist() == [2, 4]


def test_the_command_offers_what_the_library_knows():
    """The lists stand twice: the command's own must be there before torch is imported."""
    hints = get_type_hints(convert)
    for option, known in (("to", Target), ("format", Format)):
        assert get_args(get_args(hints[option])[0]) == get_args(known)


def test_the_format_can_be_told(saeaudit, tmp_path):
    directory = copy_golden("saelens-topk", tmp_path)
    (directory / "sae_weights.safetensors").rename(directory / "renamed.safetensors")
    assert "holds no known file" in saeaudit("convert", directory, tmp_path / "o").err
    done = saeaudit("convert", directory / "renamed.safetensors", tmp_path / "o", "--from", "saelens")
    assert done.code == 0, done.err
    weights = copy_golden("sparsify-default", tmp_path) / "sae.safetensors"
    told = saeaudit("convert", weights, tmp_path / "p", "--from", "saelens")
    assert told.code == 2 and "d_sae" in told.err, "the file is detected as sparsify, and --from decides"


def test_nothing_is_overwritten_and_errors_are_text(saeaudit, tmp_path):
    directory = copy_golden("saelens-topk", tmp_path)
    assert "nothing is overwritten" in saeaudit("convert", directory, directory).err
    done = saeaudit("convert", tmp_path / "nowhere", tmp_path / "o")
    assert done.code == 2 and done.err.startswith("error: ")
