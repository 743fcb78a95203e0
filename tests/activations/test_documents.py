import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.activations import Document, tokenise
from saeaudit.errors import ConfigError, InputError, ModelError
from tiny import TEXTS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TEXT = TEXTS[1]


def one(text=TEXT, *, max_length=64, span=None, **options):
    return tokenise(TOKENIZER, [Document("d", text, span=span)], max_length=max_length, **options)


def test_ids_are_those_of_the_tokenizer_and_rows_start_after_the_skipped_positions():
    """diffing-toolkit decodes ids to text and tokenises it again, which need not give the same ids."""
    found = tokenise(TOKENIZER, [Document(str(i), t) for i, t in enumerate(TEXTS)], max_length=64, skip_first=3)
    expected = [tuple(TOKENIZER(t)["input_ids"]) for t in TEXTS]
    assert found.ids == tuple(expected)
    assert found.n_tokens == sum(map(len, expected)) and found.n_rows == sum(len(i) - 3 for i in expected)
    assert found.offsets.tolist() == [0, *np.cumsum([len(i) - 3 for i in expected])]
    assert found.rows([2, 0]).tolist() == [
        *range(found.offsets[2], found.offsets[3]),
        *range(found.offsets[0], found.offsets[1]),
    ]
    assert found.last_rows([0, 3]).tolist() == [found.offsets[1] - 1, found.n_rows - 1]
    assert found.rows([]).shape == found.last_rows([]).shape == (0,)


def test_a_document_without_rows_has_no_last_row():
    """The row before its place belongs to another document."""
    found = tokenise(TOKENIZER, [Document("long", TEXT), Document("short", "id")], max_length=64)
    assert len(found.ids[1]) <= 4 and found.rows([1]).size == 0
    assert found.last_rows([0]).tolist() == [found.n_rows - 1]
    with pytest.raises(InputError, match=r"'short' has 1 token; more than 4 are needed") as caught:
        found.last_rows(np.array([0, 1]))
    assert caught.value.code == "prompt-too-short"


@settings(deadline=None)
@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3).map(" ".join), st.data())
def test_a_span_of_characters_becomes_the_tokens_that_touch_it(text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    found = one(text, max_length=400, span=(start, end))
    first, last = found.spans[0]
    before, inside = (TOKENIZER.decode(found.ids[0][a:b]) for a, b in ((0, first), (first, last)))
    assert len(before) <= start < len(before) + len(TOKENIZER.decode([found.ids[0][first]]))
    assert len(before) + len(inside) >= end > len(before) + len(TOKENIZER.decode(found.ids[0][first : last - 1]))


def test_a_span_that_was_cut_off_or_is_empty_is_unknown():
    assert one(span=(len(TEXT) - 2, len(TEXT))).spans[0] is not None
    assert one(max_length=8, too_long="truncate", span=(len(TEXT) - 2, len(TEXT))).spans == (None,)
    assert one(span=(3, 3)).spans == one().spans == (None,)


def test_long_texts_are_refused_or_cut():
    n = len(one().ids[0])
    assert len(one(max_length=n).ids[0]) == n
    assert one(max_length=n - 1, too_long="truncate").ids[0] == one().ids[0][:-1]
    with pytest.raises(InputError, match=f"'d' has {n} tokens; at most {n - 1} fit") as caught:
        one(max_length=n - 1)
    assert caught.value.code == "prompt-too-long"


@pytest.mark.parametrize(
    ("documents", "code", "says"),
    [
        ([], "empty-corpus", "no documents"),
        ([Document("a", TEXT), Document("b", " \n")], "empty-prompt", "'b' is empty"),
        ([Document("a", TEXT), Document("a", "other")], "duplicate-id", "two documents are called 'a'"),
        ([Document("a", "id")], "no-rows", "more than 4 tokens"),
    ],
)
def test_unusable_documents_are_named(documents, code, says):
    with pytest.raises(InputError, match=says) as caught:
        tokenise(TOKENIZER, documents, max_length=64)
    assert caught.value.code == code


def test_a_text_that_the_tokenizer_swallows_is_empty():
    class Swallows:
        is_fast = True

        def __call__(self, texts, **_):
            return {"input_ids": [[] for _ in texts], "offset_mapping": [[] for _ in texts]}

    with pytest.raises(InputError, match="'a' has no tokens"):
        tokenise(Swallows(), [Document("a", "\u200b")], max_length=4)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="Slow cannot map tokens to characters"):
        tokenise(Slow(), [Document("a", TEXT)], max_length=64)


@pytest.mark.parametrize("options", [{"max_length": 0}, {"max_length": 9, "skip_first": -1}])
def test_sizes_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match="were asked for"):
        tokenise(TOKENIZER, [Document("a", TEXT)], **options)


def test_a_fingerprint_sees_ids_names_roles_and_the_skipped_positions():
    prints = {
        one(text, **options).fingerprint()
        for text, options in ((TEXT, {}), (TEXT + "!", {}), (TEXT, {"skip_first": 5}), (TEXT, {"span": (0, 2)}))
    }
    assert len(prints) == 3  # a span changes no activation
    for changed in (Document("e", TEXT), Document("d", TEXT, role="test")):
        assert tokenise(TOKENIZER, [changed], max_length=64).fingerprint() not in prints
