"""Values of the abstract evaluation: text with holes, and containers of such text.

A `Value` says what is known about a Python expression without running it: constant parts and holes in order. A hole
knows which function parameters it carries. The functions below mirror the string operations by which a query can be
put together: concatenation, `%`, `format`, `join`, `replace`.
"""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_HOLE_BASE = 0xE000
_PRIVATE = re.compile("[\ue000-\uf8ff]")
_PERCENT = re.compile(r"%(?:\((?P<key>[^)]*)\))?[#0\- +]*\d*(?:\.\d+)?[hlL]?(?P<kind>[a-zA-Z%])")
_TEXT_SPEC = re.compile(r"(.?[<>^])?0?\d*(\.\d+)?s?")
_MAX_PARTS = 400
_MAX_CHARACTERS = 40_000


class TooComplex(Exception):
    """The judged text asks for more work than any honest completion needs."""


@dataclass(frozen=True)
class Hole:
    """A place in a text that is not known before run time.

    Attributes:
        sources: parameters whose text reaches this place; empty if none does.
        cleansed: input reaches this place, but only as a number or as one of a closed set of constants.
        as_repr: the value is inserted through `repr`.
    """

    sources: frozenset[str] = frozenset()
    cleansed: bool = False
    as_repr: bool = False


@dataclass(frozen=True)
class Value:
    """What is known about one expression: its text and, for a container, its items.

    Attributes:
        parts: constant strings and holes, in order.
        shape: "text" for anything that is no container.
        items: the known items of a container (the values of a dict).
        keys: the keys of a dict, None where a key is not constant.
        open_ended: the container may hold more items than these.
    """

    parts: tuple[str | Hole, ...]
    shape: Literal["text", "tuple", "list", "dict", "set"] = "text"
    items: tuple["Value", ...] = ()
    keys: tuple[str | None, ...] = ()
    open_ended: bool = False

    @property
    def sources(self) -> frozenset[str]:
        """Every parameter that reaches the value or one of its items."""
        return frozenset().union(*(p.sources for p in self.parts if isinstance(p, Hole)))

    @property
    def constant(self) -> str | None:
        """The text, if nothing in it is open."""
        known = [p for p in self.parts if isinstance(p, str)]
        return "".join(known) if self.shape == "text" and len(known) == len(self.parts) else None

    def marked(self) -> tuple[str, tuple[Hole, ...]]:
        """Return the text with one private-use character for each hole, and the holes."""
        holes = tuple(p for p in self.parts if isinstance(p, Hole))
        count = iter(range(len(holes)))
        return "".join(p if isinstance(p, str) else chr(_HOLE_BASE + next(count)) for p in self.parts), holes


def hole_index(char: str) -> int:
    """Return the index of the hole that a character of `Value.marked` stands for; negative if it is no hole."""
    return ord(char) - _HOLE_BASE if "\ue000" <= char <= "\uf8ff" else -1


def text(value: str) -> Value:
    """A constant; private-use characters are reserved for holes and replaced."""
    return Value((_PRIVATE.sub("\ufffd", value),))


def tainted(name: str) -> Value:
    """The value of a parameter."""
    return Value((Hole(frozenset({name})),))


def merge(*values: Value) -> Value:
    """One hole that carries whatever the values carry: the result of an operation that is not followed."""
    holes = [p for v in values for p in v.parts if isinstance(p, Hole)]
    return Value((Hole(frozenset().union(*(h.sources for h in holes)), any(h.cleansed for h in holes)),))


def cleanse(*values: Value) -> Value:
    """One hole that carries no text of the values any more."""
    touched = any(isinstance(p, Hole) and (p.sources or p.cleansed) for v in values for p in v.parts)
    return Value((Hole(cleansed=touched),))


def container(
    shape: Literal["tuple", "list", "dict", "set"],
    items: Sequence[Value],
    *,
    keys: Sequence[str | None] = (),
    open_ended: bool = False,
) -> Value:
    """A container; its own text is one hole with the taint of all items."""
    if len(items) > _MAX_PARTS:
        raise TooComplex
    return Value(merge(*items).parts, shape, tuple(items), tuple(keys), open_ended)


def concat(values: Sequence[Value]) -> Value:
    """Text after text."""
    return _build([p for v in values for p in v.parts])


def _build(parts: Sequence[str | Hole]) -> Value:
    merged: list[str | Hole] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    if len(merged) > _MAX_PARTS or sum(len(p) for p in merged if isinstance(p, str)) > _MAX_CHARACTERS:
        raise TooComplex
    return Value(tuple(merged) or ("",))


def _expand(marked: str, holes: Sequence[Hole]) -> Value:
    pieces = re.split("([\ue000-\uf8ff])", marked)
    return _build([holes[hole_index(p)] if p and hole_index(p) >= 0 else p for p in pieces])


def as_repr(value: Value) -> Value:
    """The value as `repr` shows it."""
    if (constant := value.constant) is not None:
        return text(repr(constant))
    return _build([Hole(p.sources, p.cleansed, as_repr=True) if isinstance(p, Hole) else p for p in value.parts])


def with_spec(value: Value, spec: str, conversion: str | None = None) -> Value:
    """The value as a replacement field shows it; a format that `str` refuses can only insert numbers or dates."""
    if conversion in ("r", "a"):
        return as_repr(value)
    return value if _TEXT_SPEC.fullmatch(spec) else cleanse(value)


def percent(left: Value, right: Value) -> Value:
    """`left % right`."""
    marked, holes = left.marked()
    pieces: list[Value] = []
    end = position = 0
    for match in _PERCENT.finditer(marked):
        pieces.append(_expand(marked[end : match.start()], holes))
        end = match.end()
        if match["kind"] == "%":
            pieces.append(text("%"))
            continue
        value = _operand(right, position if match["key"] is None else match["key"])
        position += match["key"] is None
        pieces.append(value if match["kind"] == "s" else as_repr(value) if match["kind"] in "ra" else cleanse(value))
    return concat([*pieces, _expand(marked[end:], holes)])


def _operand(right: Value, key: int | str) -> Value:
    """The operand of `%` for a position or a key; where it is not known, everything that it may be."""
    if isinstance(key, str):
        found = dict(zip(right.keys, right.items, strict=False)).get(key)
    elif right.shape == "tuple":
        found = right.items[key] if key < len(right.items) else None
    else:
        found = right if right.shape == "text" and key == 0 else None
    return merge(right, *right.items) if found is None else found


def format_fields(left: Value, args: Sequence[Value], named: dict[str, Value], rest: Value) -> Value:
    """`left.format(*args, **named)`; `rest` stands for arguments that cannot be counted."""
    marked, holes = left.marked()
    try:
        fields = list(string.Formatter().parse(marked))
    except ValueError:
        return merge(left, *args, *named.values(), rest)
    pieces: list[Value] = []
    position = 0
    for literal, field, spec, conversion in fields:
        pieces.append(_expand(literal, holes))
        if field is None:
            continue
        root, *path = re.split(r"[.\[]", field, maxsplit=1)
        if root == "":
            value = args[position] if position < len(args) else rest
            position += 1
        elif root.isdecimal() and len(root) < 4:
            value = args[int(root)] if int(root) < len(args) else rest
        else:
            value = named.get(root, rest)
        value = merge(value, *value.items) if path else value
        pieces.append(with_spec(value, spec or "", conversion) if "{" not in (spec or "") else merge(value, rest))
    return concat(pieces)


def join(separator: Value, value: Value) -> Value:
    """`separator.join(value)`; of a container of unknown length the known items stand for the rest."""
    if value.shape == "text" and value.constant is None:
        return merge(separator, value)
    items = [text(c) for c in value.constant] if value.constant is not None else value.items
    if len(items) > _MAX_PARTS:
        raise TooComplex
    pieces = [piece for item in items for piece in (separator, item)]
    return concat(pieces[1:])


def replace(value: Value, old: Value, new: Value) -> Value:
    """`value.replace(old, new)`."""
    needle = old.constant
    if not needle:
        return merge(value, old, new)
    parts: list[str | Hole] = []
    for part in value.parts:
        if isinstance(part, Hole):
            parts.append(part)
            continue
        first, *others = part.split(needle)
        parts.append(first)
        for piece in others:
            parts += [*new.parts, piece]
        if len(parts) > _MAX_PARTS:
            raise TooComplex
    return _build(parts)
