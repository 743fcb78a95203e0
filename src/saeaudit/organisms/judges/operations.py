"""What containers, methods and well-known functions do to templates.

Every function here is pure: values in, one value out. An operation that is not listed carries the taint of its
operands on, which can only make a judgement stricter.
"""

from collections.abc import Sequence

from saeaudit.organisms.judges import template
from saeaudit.organisms.judges.template import Value

# A string that is no number, date or UUID makes these raise; the others return something that is no text of the user.
_CLEANSING_NAMES = """
    int float bool complex len ord hash id abs round sum isinstance any all Decimal Fraction UUID date datetime time
    timedelta fromisoformat strptime fromtimestamp toordinal timestamp Identifier Literal Placeholder
    isdigit isdecimal isnumeric isalnum isalpha isidentifier startswith endswith count find index
"""
_CLEANSING = frozenset(_CLEANSING_NAMES.split())
_TRANSPARENT_METHODS = frozenset({"strip", "lstrip", "rstrip", "encode", "decode", "copy"})
_TRANSPARENT = frozenset({"str", "SQL", "text", "dedent", "cleandoc"})
_COPIES = frozenset({"list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "dict"})


def call_result(
    name: str, receiver: Value | None, args: Sequence[Value], named: dict[str, Value], rest: Value
) -> Value:
    """Return what `receiver.name(*args, **named)` or `name(*args, **named)` gives.

    `rest` stands for unpacked arguments, which cannot be told apart.
    """
    if name in _CLEANSING:
        return template.cleanse(*([receiver] if receiver else []), *args, *named.values(), rest)
    if receiver is not None and (known := _method(name, receiver, args, named, rest)) is not None:
        return known
    first = args[0] if args else None
    if first is not None and name in _TRANSPARENT and first.shape == "text":
        return first
    if first is not None and name == "repr" and first.shape == "text":
        return template.as_repr(first)
    if first is not None and name == "format" and len(args) == 2:
        spec = args[1].constant
        return template.merge(first, args[1]) if spec is None else template.with_spec(first, spec)
    if first is not None and name == "join" and len(args) == 2:
        return template.join(args[0], args[1])
    if name == "dict" and not args:
        return template.container("dict", list(named.values()), keys=list(named))
    if first is not None and name in _COPIES and first.shape != "text":
        return first
    return template.merge(*([receiver] if receiver else []), *args, *named.values(), rest)


def _method(name: str, on: Value, args: Sequence[Value], named: dict[str, Value], rest: Value) -> Value | None:
    """Methods of texts and dicts that are followed; None for all others."""
    if on.shape == "dict":
        if name == "get" and args:
            found = select(on, args[0])
            return found if len(args) == 1 else template.merge(found, args[1])
        if name == "keys":
            return template.container("list", [template.text(k) for k in on.keys if k is not None])
        if name == "values":
            return template.container("list", on.items, open_ended=on.open_ended)
        if name == "items":
            pairs = zip(elements(on), on.items, strict=False)
            return template.container("list", [template.container("tuple", p) for p in pairs], open_ended=on.open_ended)
        return on if name == "copy" else None
    if on.shape != "text":
        return on if name == "copy" else None
    if name == "format":
        return template.format_fields(on, args, named, rest)
    if name == "format_map" and len(args) == 1 and args[0].shape == "dict":
        known = {k: v for k, v in zip(args[0].keys, args[0].items, strict=False) if k is not None}
        return template.format_fields(on, (), known, template.merge(args[0]))
    if name == "join" and len(args) == 1:
        return template.join(on, args[0])
    if name == "replace" and len(args) >= 2:
        return template.replace(on, args[0], args[1])
    if name in ("upper", "lower") and on.constant is not None:
        return template.text(on.constant.upper() if name == "upper" else on.constant.lower())
    return on if name in _TRANSPARENT_METHODS else None


def add(left: Value, right: Value) -> Value:
    """`left + right` of two texts or two lists."""
    if left.shape == "text" or right.shape == "text":
        return template.concat([left, right])
    if left.shape == "dict":
        return template.merge(left, right)
    return template.container(left.shape, [*left.items, *right.items], open_ended=left.open_ended or right.open_ended)


def repeat(left: Value, right: Value) -> Value:
    """`left * right` with a list or a text on one side: once stands for any number of times."""
    for value in (left, right):
        if value.shape in ("list", "tuple"):
            return template.container("list", value.items, open_ended=True)
    texts = [v for v in (left, right) if v.constant is not None and not v.constant.isdecimal()]
    return texts[0] if texts else template.merge(left, right)


def select(value: Value, key: Value) -> Value:
    """`value[key]`; the choice among constants by an input carries no text of the input."""
    if value.shape == "text":
        return template.merge(value)
    constant = key.constant
    if value.shape == "dict" and constant is not None and constant in value.keys:
        return value.items[value.keys.index(constant)]
    if value.shape in ("list", "tuple") and constant is not None and constant.isdecimal() and len(constant) < 4:
        index = int(constant)
        if index < len(value.items):
            return value.items[index]
    return template.merge(*value.items) if value.sources or not value.items else template.cleanse(key)


def elements(value: Value) -> Sequence[Value]:
    """What a loop over the value binds."""
    keys = [template.merge() if k is None else template.text(k) for k in value.keys]
    return keys or value.items or [template.merge(value)]


def unpacked(value: Value, index: int, n: int) -> Value:
    """Item `index` of `n` when the value is unpacked."""
    exact = value.shape in ("tuple", "list") and len(value.items) == n and not value.open_ended
    return value.items[index] if exact else template.merge(value)


def extended(old: Value, name: str, new: Value, key: str | None = None) -> Value:
    """The container after `append`, `add`, `extend`, `insert`, `update` or an item assignment with `new`."""
    if old.shape == "dict":
        if name == "update" and new.shape == "dict":
            return template.container("dict", [*new.items, *old.items], keys=[*new.keys, *old.keys])
        return template.container("dict", [new, *old.items], keys=[key, *old.keys], open_ended=old.open_ended)
    if old.shape == "text" or name == "setitem":
        return template.merge(old, new)
    if name in ("extend", "update", "+="):
        items = new.items if new.shape != "text" else (new,)
        return template.container(old.shape, [*old.items, *items], open_ended=old.open_ended or new.open_ended)
    return template.container(old.shape, [*old.items, new], open_ended=old.open_ended)


def is_closed_choice(value: Value) -> bool:
    """Whether the value is a collection of constants that is known in full."""
    if value.shape == "text" or not value.items or value.open_ended:
        return False
    if value.shape == "dict":
        return None not in value.keys
    return all(item.constant is not None for item in value.items)
