"""One file, flags and `--set`: what wins, and that every problem is said at once with its name."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from saeaudit.config import invalid, read_config
from saeaudit.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    k: int = Field(default=16, ge=1)
    n_samples: int = 100
    rate: float = 0.5
    deep: bool = True


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    tuned: str
    layers: tuple[int, ...] | None = None
    corpus: Path | None = None
    judge: Literal["none", "sql"] = "none"
    dictionary: Section = Section()

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers):
        if layers is not None and len(set(layers)) != len(layers):
            raise ValueError(f"layers must be distinct; found {layers}")
        return layers


def read(tmp_path, text=None, *, suffix=".toml", given=None, overrides=()):
    file = None
    if text is not None:
        file = tmp_path / f"run{suffix}"
        file.write_text(text)
    return read_config(Settings, file=file, given=given, overrides=overrides)


def problems(tmp_path, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, *args, **kwargs)
    return str(caught.value)


TOML = 'tuned = "x"\nlayers = [3, 5]\n[dictionary]\nk = 2\ndeep = false\n'
YAML = "tuned: x\nlayers: [3, 5]\ndictionary:\n  k: 2\n  deep: no\n"


def test_toml_and_yaml_give_the_same_settings(tmp_path):
    expected = Settings(tuned="x", layers=(3, 5), dictionary=Section(k=2, deep=False))
    assert read(tmp_path, TOML) == expected
    assert read(tmp_path, YAML, suffix=".yaml") == expected
    assert read(tmp_path, YAML, suffix=".yml") == expected


def test_flags_win_over_the_file_and_set_wins_over_flags(tmp_path):
    assert read(tmp_path, TOML, given={"tuned": "flag", "judge": None}).tuned == "flag"
    both = read(tmp_path, TOML, given={"tuned": "flag"}, overrides=["tuned=set", "dictionary.k=7", "dictionary.k=8"])
    assert (both.tuned, both.dictionary.k) == ("set", 8)
    assert both.dictionary.deep is False, "what nobody overrides stays as the file says"


def test_a_flag_that_was_not_given_changes_nothing(tmp_path):
    assert read(tmp_path, TOML, given={"layers": None, "judge": None}) == read(tmp_path, TOML)


@pytest.mark.parametrize("text", ["13,17", "[13,17]", "13, 17", "13,17,"])
def test_lists_in_set_and_in_flags(tmp_path, text):
    assert read(tmp_path, given={"tuned": "x"}, overrides=[f"layers={text}"]).layers == (13, 17)
    assert read(tmp_path, given={"tuned": "x", "layers": text}).layers == (13, 17)


def test_values_keep_their_meaning(tmp_path):
    found = read(
        tmp_path,
        'tuned = "x"\nlayers = [1]\n',
        overrides=["layers=null", "corpus=a=b.txt", "dictionary.rate=1e-3", "dictionary.deep=false", "judge=none"],
    )
    assert found.layers is None
    assert found.corpus == Path("a=b.txt")
    assert found.dictionary.rate == 1e-3
    assert found.dictionary.deep is False
    assert found.judge == "none"


@given(st.integers(1, 10**9), st.floats(allow_nan=False, allow_infinity=False), st.lists(st.integers(0, 99)))
def test_every_value_survives_the_way_through_text(k, rate, layers):
    layers = list(dict.fromkeys(layers))
    overrides = ["tuned=x", f"dictionary.k={k}", f"dictionary.rate={rate!r}", f"layers={layers}"]
    expected = Settings(tuned="x", layers=tuple(layers), dictionary=Section(k=k, rate=rate))
    assert read_config(Settings, overrides=overrides) == expected


def test_all_problems_of_all_places_are_reported_together(tmp_path):
    text = problems(
        tmp_path,
        "judges = 'sql'\n[dictionary]\nk = 0\n",
        given={"layers": "1,1"},
        overrides=["dictionary.n_sample=4", "seed", "dictionary=3", "dictionary.rate=fast"],
    )
    for expected in (
        "8 problems",
        "there is no setting 'judges' (in",
        "did you mean judge?",
        "dictionary.k (in",
        "greater than or equal to 1, found 0",
        "tuned is needed and was not given",
        "layers (from its flag): layers must be distinct; found (1, 1)",
        "there is no setting 'dictionary.n_sample' (from --set); did you mean dictionary.n_samples?",
        "--set 'seed' should look like name=value",
        "--set dictionary: that is a section; set one of dictionary.k,",
        "dictionary.rate (from --set)",
        "found 'fast'",
    ):
        assert expected in text


def test_one_problem_is_one_line(tmp_path):
    assert problems(tmp_path) == "the settings cannot be used: tuned is needed and was not given"


def test_the_last_part_of_a_name_is_enough_for_a_suggestion(tmp_path):
    assert "did you mean dictionary.n_samples?" in problems(tmp_path, overrides=["tuned=x", "n_samples=3"])
    assert "there are tuned, layers" in problems(tmp_path, overrides=["tuned=x", "qqqq=3"])


def test_a_plain_value_where_a_section_belongs(tmp_path):
    text = problems(tmp_path, 'tuned = "x"\ndictionary = 3\n', overrides=["dictionary.k=2"])
    assert "dictionary is a section, found 3 in its place" in text


@pytest.mark.parametrize(
    ("text", "suffix", "expected"),
    [
        ("tuned = x", ".toml", "Invalid value"),
        ("a: [", ".yaml", "while parsing"),
        ("tuned: x\ntuned: y\n", ".yaml", "'tuned' is set twice"),
        ("tuned: !!python/object/apply:os.getcwd []", ".yaml", "python/object"),
        ("- 1\n- 2\n", ".yaml", "found list"),
        ("{}", ".json", "ends in .toml, .yaml or .yml"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, text, suffix, expected):
    message = problems(tmp_path, text, suffix=suffix)
    assert f"run{suffix}" in message
    assert expected in message


def test_a_missing_a_huge_and_a_binary_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        read_config(Settings, file=tmp_path / "none.toml")
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="more than 1 MiB"):
        read_config(Settings, file=huge)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="utf-8"):
        read_config(Settings, file=binary)


def test_an_empty_yaml_file_sets_nothing(tmp_path):
    assert read(tmp_path, "# nothing\n", suffix=".yaml", given={"tuned": "x"}) == Settings(tuned="x")


def test_what_pydantic_says_elsewhere_becomes_a_config_error():
    with pytest.raises(ValueError, match="k") as caught:
        Section(k=0, oops=1)
    error = invalid(caught.value)
    assert isinstance(error, ConfigError)
    assert error.code == "config-invalid"
    assert "k: input should be greater than or equal to 1, found 0" in str(error)
    assert "there is no setting 'oops'" in str(error)
