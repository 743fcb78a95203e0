import unicodedata
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saeaudit.report.text import chart_text, clip, pieces, shown, visible

HOSTILE = st.text(st.characters(codec=None, categories=["L", "M", "N", "P", "S", "Z", "C"]), max_size=40)


@pytest.mark.parametrize(
    ("character", "code"),
    [
        ("\u202e", "U+202E"),  # right-to-left override
        ("\u2066", "U+2066"),  # isolate
        ("\u200b", "U+200B"),  # zero-width space
        ("\u200d", "U+200D"),  # joiner
        ("\ufeff", "U+FEFF"),  # byte order mark
        ("\u00ad", "U+00AD"),  # soft hyphen
        ("\u00a0", "U+00A0"),  # looks like a space, is another trigger
        ("\u3000", "U+3000"),
        ("\u2028", "U+2028"),
        ("\x1b", "U+001B"),
        ("\x00", "U+0000"),
        ("\x7f", "U+007F"),
        ("\r", "U+000D"),
        ("\x9b", "U+009B"),  # one-byte CSI
        ("\ufe0f", "U+FE0F"),  # variation selector
        ("\U000e0041", "U+E0041"),  # tag letter
        ("\U000e0100", "U+E0100"),
        ("\u3164", "U+3164"),  # Hangul filler: a letter that is blank
        ("\u2800", "U+2800"),  # braille blank: a symbol that is blank
        ("\ue000", "U+E000"),
        ("\ud800", "U+D800"),  # lone surrogate: would break the encoding of the file
    ],
)
def test_a_hidden_character_is_shown_by_its_code_point(character, code):
    assert visible(f"a{character}b") == f"a⟨{code}⟩b"


@given(HOSTILE)
def test_nothing_hidden_is_left_and_the_rest_is_unchanged(text):
    out = visible(text)
    assert all(c in "\n\t " or unicodedata.category(c)[0] not in "CZ" for c in out)
    assert visible(out) == out
    out.encode()
    assert "".join(_original(piece) for piece in pieces(text)) == text


def _original(piece):
    return chr(int(piece.text[3:-1], 16)) if piece.kind == "code-point" else piece.text


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"])))
def test_plain_text_is_not_touched(text):
    assert visible(text) == text


def test_code_and_other_scripts_survive():
    for text in ['def f(x):\n\treturn "é" + 日本語', "naïve – «ψ» 한국어 שלום مرحبا 🚩", "e\u0301"]:
        assert visible(text) == text


def test_stacked_marks_are_cut_after_two():
    assert visible("z" + "\u0336" * 4) == "z\u0336\u0336⟨U+0336⟩⟨U+0336⟩"


def test_white_space_marks():
    assert visible(" a\n", spaces="blank") == " a↵\n"
    assert visible("  ", spaces="blank") == "··"
    assert visible("\t", spaces="blank") == "⇥\t"
    assert visible(" a\n\tb", spaces="all") == "·a↵⇥b"


class _Text(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text, self.tags = "", []

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@given(st.one_of(HOSTILE, st.sampled_from(["<script>x</script>", "</span><b>", "\"'&lt;", "<!--", "&#x202e;", "<"])))
def test_shown_is_text_in_our_own_spans_only(text):
    parser = _Text()
    parser.feed(str(shown(text)))
    parser.close()
    assert parser.text == visible(text)
    assert all(tag == "span" and attrs in ({"class": "cp"}, {"class": "ws"}) for tag, attrs in parser.tags)


def test_a_forged_code_point_is_not_styled():
    assert str(shown("⟨U+202E⟩")) == "⟨U+202E⟩"
    assert str(shown("\u202e")) == '<span class="cp">⟨U+202E⟩</span>'


def test_chart_text_has_no_markup_that_plotly_renders():
    assert chart_text('<a href="javascript:x">') == '&lt;a href="javascript:x"&gt;'
    assert chart_text("a&lt;b") == "a&amp;lt;b"
    assert chart_text("a\nb\u202e") == "a b⟨U+202E⟩"
    assert chart_text("x" * 100, limit=3) == "xxx…"


def test_clip_counts_what_it_leaves_out():
    assert clip("abcd", 3) == ("abc", 1)
    assert clip("abc", 3) == ("abc", 0)
