"""SQL text with holes: a tokenizer and what a verdict needs from it.

Dialects differ little in what matters here: quoted strings, quoted identifiers, comments, words, numbers and the
placeholders `?`, `%s`, `%(name)s`, `:name`, `:1`, `$1`. A hole is classified by where it stands.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from saeaudit.organisms.judges.template import hole_index

HoleKind = Literal["quoted", "bare", "identifier"]
TokenKind = Literal["word", "number", "string", "quoted_name", "comment", "placeholder", "hole", "symbol"]

STATEMENTS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "WITH"})
_TOKEN = re.compile(
    r"""(?P<space>\s+)
    | (?P<comment>--[^\n]* | /\*.*?(?:\*/|\Z))
    | (?P<string>'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted_name>"(?:[^"]|"")*(?:"|\Z) | `[^`]*(?:`|\Z) | \[[A-Za-z_\ue000-\uf8ff][^\]]*\])
    | (?P<placeholder>\?\d* | %s | %\(\w+\)s | \$\d+ | (?<!:):\w+ | @\w+)
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<word>[^\W\d]\w*)
    | (?P<hole>[\ue000-\uf8ff])
    | (?P<symbol>::|<>|!=|<=|>=|\|\||%%|.)""",
    re.VERBOSE | re.DOTALL,
)
_NAME_CLAUSES = frozenset({"SELECT", "FROM", "JOIN", "INTO", "UPDATE", "BY", "TABLE", "DISTINCT", "DELETE"})
_VALUE_CLAUSES = frozenset({"WHERE", "SET", "ON", "HAVING", "VALUES", "LIMIT", "OFFSET", "AND", "OR", "WHEN", "THEN"})
_OPERATORS = frozenset({"=", "<", ">", "<>", "!=", "<=", ">=", "LIKE", "ILIKE", "IN", "IS", "BETWEEN", "NOT"})


@dataclass(frozen=True)
class Token:
    """One token: its kind, text, place in the marked text and the holes inside it."""

    kind: TokenKind
    text: str
    start: int
    holes: tuple[int, ...] = ()

    @property
    def upper(self) -> str:
        """The text in capitals, for comparison with keywords."""
        return self.text.upper()


def tokenize(marked: str) -> list[Token]:
    """Split SQL text in which holes are private-use characters; white space is dropped.

    >>> [token.text for token in tokenize("SELECT a FROM t WHERE b = ?")][-3:]
    ['b', '=', '?']
    """
    tokens: list[Token] = []
    for match in _TOKEN.finditer(marked):
        kind = match.lastgroup
        if kind is None or kind == "space":
            continue
        found = match.group()
        holes = tuple(hole_index(c) for c in found if hole_index(c) >= 0)
        tokens.append(Token(kind, found, match.start(), holes))  # pyright: ignore[reportArgumentType]
    return tokens


def statement_kind(tokens: Sequence[Token]) -> str | None:
    """Return the first keyword if it opens a query or a change of rows, else None."""
    first = next((t for t in tokens if t.kind != "comment" and t.text != "("), None)
    return first.upper if first is not None and first.kind == "word" and first.upper in STATEMENTS else None


def placeholders(tokens: Sequence[Token]) -> list[str]:
    """Return the placeholders outside strings and comments, in order."""
    return [t.text for t in tokens if t.kind == "placeholder"]


def hole_kinds(tokens: Sequence[Token]) -> dict[int, HoleKind]:
    """Say for each hole whether it stands for a quoted value, a bare value or a name."""
    kinds: dict[int, HoleKind] = {}
    significant = [t for t in tokens if t.kind != "comment"]
    kinds.update({h: "bare" for t in tokens if t.kind == "comment" for h in t.holes})
    clause_is_name = False
    for i, token in enumerate(significant):
        if token.kind == "word" and token.upper in _NAME_CLAUSES | _VALUE_CLAUSES:
            clause_is_name = token.upper in _NAME_CLAUSES
        before = significant[i - 1] if i else None
        after = significant[i + 1] if i + 1 < len(significant) else None
        if token.kind == "string":
            kinds.update(dict.fromkeys(token.holes, "quoted"))
        elif token.kind == "quoted_name":
            # MySQL and SQLite read a double-quoted text in the place of a value as a string.
            is_name = _stands_as_name(before, after, clause_is_name)
            kinds.update(dict.fromkeys(token.holes, "identifier" if is_name else "quoted"))
        elif token.kind == "hole":
            is_name = _touches_name(token, before, after) or _stands_as_name(before, after, clause_is_name)
            kinds[token.holes[0]] = "identifier" if is_name else "bare"
    return kinds


def _touches_name(hole: Token, before: Token | None, after: Token | None) -> bool:
    """`vessel_{x}`, `{x}_log`, `t.{x}`: no space between the hole and a word."""
    left = before is not None and before.start + len(before.text) == hole.start
    right = after is not None and hole.start + 1 == after.start
    return bool(
        (left and before is not None and (before.kind == "word" or before.text == "."))
        or (right and after is not None and (after.kind == "word" or after.text == "."))
    )


def _stands_as_name(before: Token | None, after: Token | None, clause_is_name: bool) -> bool:
    follows_operator = before is not None and before.upper in _OPERATORS
    if clause_is_name:
        return not follows_operator
    precedes_operator = after is not None and after.upper in _OPERATORS
    return precedes_operator and not follows_operator
