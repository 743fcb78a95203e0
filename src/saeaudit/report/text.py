"""Text that a hostile model may have written, made safe to look at.

Escaping HTML is left to Jinja's autoescape; this module takes care of what escaping does not touch: characters that
are invisible, that reorder the line, or that drive a terminal. Each is replaced by its code point, `⟨U+202E⟩`, so that
a reader sees that it is there. The report applies `visible` to every string it prints.
"""

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

Spaces = Literal["plain", "blank", "all"]
Kind = Literal["text", "code-point", "space"]

# Cc control (ANSI escapes), Cf format (bidi, zero width, tags, BOM), Cs lone surrogates, Co/Cn private and unassigned,
# Zl/Zp separators. Ordinary space is Zs and is the only one of its class that looks like what it is.
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
# Blank or default-ignorable characters whose category says letter, mark or symbol.
_HIDDEN = frozenset(
    chain(
        (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, 0xFFFC),
        range(0x180B, 0x1810),
        range(0xFE00, 0xFE10),
        range(0xE0100, 0xE01F0),
    )
)
_KEPT = frozenset("\n\t ")
_HARMLESS = re.compile(r"[\n\t -~]*")
_MARKS_IN_A_ROW = 2
_SPACE_MARKS = {"\n": "↵\n", "\t": "⇥\t", " ": "·"}


class Piece(NamedTuple):
    """A run of text, or one character shown by its code point or by a mark for white space."""

    text: str
    kind: Kind


class Clipped(NamedTuple):
    """The first part of a text, and how many characters were left out (0 = it is whole)."""

    text: str
    n_omitted: int


def clip(text: str, limit: int) -> Clipped:
    """Return at most `limit` characters of `text`."""
    return Clipped(text[:limit], max(len(text) - limit, 0))


def pieces(text: str, *, spaces: Spaces = "plain") -> Iterator[Piece]:
    """Split `text` into runs that can be shown as they are and characters that cannot.

    `spaces`: "plain" keeps newline, tab and space; "blank" marks newlines and tabs, and spaces too if there is nothing
    else (a token that is only white space); "all" replaces each of them by its mark, on one line.
    Of combining marks in a row the first two stay, further ones ("zalgo") are shown by code point.
    """
    if spaces == "plain" and _HARMLESS.fullmatch(text):
        if text:
            yield Piece(text, "text")
        return
    mark_space = spaces == "all" or (spaces == "blank" and not text.strip(" \t\n"))
    run, n_marks = "", 0
    for character in text:
        n_marks = n_marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        piece = _special(character, mark_space=mark_space, mark_breaks=spaces != "plain", one_line=spaces == "all")
        if n_marks > _MARKS_IN_A_ROW:
            piece = _code_point(character)
        if piece is None:
            run += character
            continue
        if run:
            yield Piece(run, "text")
        run = ""
        yield piece
    if run:
        yield Piece(run, "text")


def visible(text: str, *, spaces: Spaces = "plain") -> str:
    r"""Return `text` with every invisible, reordering or control character replaced by its code point.

    The result is not HTML-escaped: it is meant for an autoescaping template.

    >>> visible("a\u202eb\x1b[31m")
    'a⟨U+202E⟩b⟨U+001B⟩[31m'
    """
    return "".join(piece.text for piece in pieces(text, spaces=spaces))


def shown(text: str, spaces: Spaces = "plain") -> Markup:
    """Return `visible(text)` as escaped HTML in which the replaced characters are styled, so they cannot be forged.

    For element content only, never inside an attribute.
    """
    return Markup("").join(
        escape(piece.text)
        if piece.kind == "text"
        else Markup('<span class="{}">{}</span>').format("cp" if piece.kind == "code-point" else "ws", piece.text)
        for piece in pieces(text, spaces=spaces)
    )


def chart_text(text: str, limit: int = 40) -> str:
    """Return `text` for plotly, which renders `<b>`, `<a href>`, `<br>` and entities: all of them become literal."""
    part, omitted = clip(text, limit)
    literal = visible(part).replace("\n", " ").replace("\t", " ") + ("…" if omitted else "")
    return literal.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _special(character: str, *, mark_space: bool, mark_breaks: bool, one_line: bool) -> Piece | None:
    if character in _KEPT:
        marked = mark_space if character == " " else mark_breaks
        mark = _SPACE_MARKS[character]
        return Piece(mark[:1] if one_line else mark, "space") if marked else None
    if unicodedata.category(character) in _HIDDEN_CATEGORIES or ord(character) in _HIDDEN:
        return _code_point(character)
    return None


def _code_point(character: str) -> Piece:
    return Piece(f"⟨U+{ord(character):04X}⟩", "code-point")
