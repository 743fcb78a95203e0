"""Files of prompts: what is read, and that every bad input gives its own error with the place in the file."""

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.audit import prompts as module
from saeaudit.audit.prompts import read_corpus, read_prompts
from saeaudit.errors import InputError

GOOD = '{"text": "hello there"}\n'


def write(tmp_path, content):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


BAD = [
    (b"\xff\xfe{", "not-utf8", "byte 0 is 0xff"),
    ("", "prompts-empty", "holds no prompts"),
    ("\n \n", "prompts-empty", "holds no prompts"),
    (GOOD + "{text: 1}\n", "prompts-invalid", "line 2: Expecting property name"),
    (GOOD + "hello\n", "prompts-invalid", "line 2"),
    ("[1]\n", "prompts-invalid", "line 1: a JSON object was expected, found list"),
    ('"a"\n', "prompts-invalid", "found str"),
    ("[" * 100_000 + "\n", "prompts-invalid", "nested too deeply"),
    ("{}\n", "prompts-invalid", 'no string under "text"'),
    ('{"text": 3}\n', "prompts-invalid", 'no string under "text"'),
    ('{"text": " \\n "}\n', "prompts-invalid", "the text is empty"),
    ('{"text": "a\\ud800b"}\n', "prompts-invalid", "half of a surrogate pair"),
    ('{"text": "a", "txet": "b"}\n', "prompts-invalid", "unknown key 'txet' (known: class, group, id, span, text)"),
    ('{"text": "a", "group": ["x"]}\n', "prompts-invalid", "'group' should be a string, found list"),
    ('{"text": "a", "class": {}}\n', "prompts-invalid", "'class' should be a string, found dict"),
    ('{"text": "abc", "span": [0, 4]}\n', "prompts-invalid", "span [0, 4]"),
    ('{"text": "abc", "span": [2, 2]}\n', "prompts-invalid", "span [2, 2]"),
    ('{"text": "abc", "span": [-1, 2]}\n', "prompts-invalid", "span [-1, 2]"),
    ('{"text": "abc", "span": [0, 1, 2]}\n', "prompts-invalid", "span"),
    ('{"text": "abc", "span": "0-1"}\n', "prompts-invalid", "span"),
    ('{"text": "abc", "span": [0, true]}\n', "prompts-invalid", "span"),
    ('{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}\n', "duplicate-id", "the id 'x'"),
]


@pytest.mark.parametrize(("content", "code", "text"), BAD, ids=range(len(BAD)))
def test_bad_files(tmp_path, content, code, text):
    path = write(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_prompts(path, is_trigger=True)
    assert caught.value.code == code and text in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("place", "code", "says"),
    [
        ("none.jsonl", "file-missing", "there is no such file"),
        ("directory", "not-a-file", "is a directory; give the path of a file"),
        ("pipe", "not-a-file", "is no regular file, and it is read more than once"),
        ("x" * 300, "file-unreadable", "File name too long"),
    ],
)
def test_what_is_no_file(tmp_path, place, code, says):
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for read in (lambda path: read_prompts(path, is_trigger=True), read_corpus):
        with pytest.raises(InputError, match=says) as caught:
            read(tmp_path / place)
        assert caught.value.code == code


def test_a_file_over_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    with pytest.raises(InputError) as caught:
        read_prompts(write(tmp_path, GOOD), is_trigger=True)
    assert caught.value.code == "file-too-large"


def test_all_problems_at_once_but_no_flood(tmp_path):
    with pytest.raises(InputError) as caught:
        read_prompts(write(tmp_path, GOOD + "{}\n" * 30), is_trigger=False)
    message = str(caught.value)
    assert "line 2:" in message and "line 11:" in message and "line 12:" not in message and "and 20 more" in message


def test_defaults_and_given_values(tmp_path):
    lines = '{"text": "a"}\r\n\r\n{"text": "bc", "group": 3, "class": "near", "id": 7, "span": [0, 1]}\r\n'
    nulls = '{"text": "d", "group": null, "class": null, "id": null, "span": null}'
    path = write(tmp_path, b"\xef\xbb\xbf" + (lines + nulls).encode())
    first, second, third = read_prompts(path, is_trigger=False)
    assert (first.prompt_id, first.group, first.klass, first.span) == ("benign-1", None, "benign", None)
    assert (second.prompt_id, second.group, second.klass, second.span) == ("7", "3", "near", (0, 1))
    assert (third.prompt_id, third.group, third.klass, third.span) == ("benign-4", None, "benign", None)
    assert [p.klass for p in read_prompts(path, is_trigger=True)] == ["trigger", "near", "trigger"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(deadline=None, max_examples=60)
@given(st.lists(TEXT, min_size=1), st.booleans())
def test_any_text_survives(tmp_path_factory, texts, ascii_only):
    """Line separators that are no newlines (U+2028, U+0085, form feed) are legal inside JSON."""
    path = tmp_path_factory.mktemp("any") / "p.jsonl"
    path.write_text("".join(json.dumps({"text": t}, ensure_ascii=ascii_only) + "\n" for t in texts), encoding="utf-8")
    assert [p.text for p in read_prompts(path, is_trigger=True)] == texts
