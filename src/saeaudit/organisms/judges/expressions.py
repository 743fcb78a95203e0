"""What a Python expression can evaluate to, as templates with holes (backdoor isolation spec §3.4, steps 2 and 3).

Each expression gives a few alternatives (conditionals, branches), at most `MAX_ALTERNATIVES`, tainted ones first.
Nothing is looked up, imported or called: unknown operations give a hole that carries the taint of their operands.
"""

import ast
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from saeaudit.organisms.judges import operations, template
from saeaudit.organisms.judges.template import TooComplex, Value

Alternatives = tuple[Value, ...]
Environment = dict[str, Alternatives]

MAX_ALTERNATIVES = 8
_MAX_STEPS = 5_000
_SINKS = frozenset({"execute", "executemany", "executescript", "raw", "text"})
_SQL_KEYWORDS = ("query", "sql", "operation", "statement")
_GROWING = frozenset({"append", "add", "extend", "insert", "update"})
_CHECKS = frozenset({"isdigit", "isdecimal", "isalnum", "isidentifier"})
_PLAIN_TYPES = frozenset({"int", "float", "bool", "Decimal", "date", "datetime", "UUID"})


@dataclass
class Call:
    """A call that may run SQL.

    Attributes:
        name: name of the called function.
        templates: what its SQL argument can be.
        positional: the arguments after it.
        keywords: the other arguments by name.
        starred: some arguments are unpacked, so they cannot be counted.
        node: the call.
        argument: the SQL argument.
    """

    name: str
    templates: Alternatives
    positional: tuple[Value, ...]
    keywords: dict[str, Value]
    starred: bool
    node: ast.Call
    argument: ast.expr


def path_of(node: ast.AST | None) -> str | None:
    """Return "a.b.c" for a chain of names and attributes."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := path_of(node.value)) is not None:
        return f"{base}.{node.attr}"
    return None


def limit(values: Iterable[Value]) -> Alternatives:
    """Drop repeated alternatives and keep the first few, tainted ones first."""
    return tuple(sorted(dict.fromkeys(values), key=lambda v: not v.sources)[:MAX_ALTERNATIVES])


def combine(function: Callable[..., Value], *alternatives: Sequence[Value | None]) -> Alternatives:
    """Apply `function` to every combination of alternatives, within the limit."""
    chosen = itertools.islice(itertools.product(*alternatives), MAX_ALTERNATIVES)
    return limit(function(*values) for values in chosen)


@dataclass
class Expressions:
    """Evaluator of expressions in one environment; collects the calls that may run SQL in `calls`."""

    env: Environment
    calls: dict[tuple[int, int], Call] = field(default_factory=dict)
    steps: int = 0

    def evaluate(self, node: ast.AST | None) -> Alternatives:
        """Return the alternatives of an expression."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise TooComplex
        if node is None:
            return (template.merge(),)
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        return self._unknown(node) if method is None else method(node)

    def bind(self, target: ast.AST, values: Alternatives) -> None:
        """Assign to a name, an attribute, an item or an unpacked tuple of these."""
        if isinstance(target, ast.Tuple | ast.List):
            n = len(target.elts)
            for i, element in enumerate(target.elts):
                self.bind(element, limit(operations.unpacked(v, i, n) for v in values))
        elif isinstance(target, ast.Starred):
            self.bind(target.value, limit(template.merge(v) for v in values))
        elif isinstance(target, ast.Subscript):
            key = self.evaluate(target.slice)[0].constant
            if (name := path_of(target.value)) in self.env and name is not None:
                grown = combine(lambda old, new: operations.extended(old, "setitem", new, key), self.env[name], values)
                self.env[name] = grown
        elif (name := path_of(target)) is not None:
            self.env[name] = limit(values)

    def narrowed(self, test: ast.AST, *, holds: bool) -> Environment:
        """Return the names that a test limits to harmless values, where it holds or fails.

        Membership in a literal collection, `isdigit` and its relatives, and `isinstance(x, int)` limit a value.
        """
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return self.narrowed(test.operand, holds=not holds)
        if isinstance(test, ast.BoolOp):
            decisive = isinstance(test.op, ast.And) == holds
            parts = [self.narrowed(part, holds=holds) for part in test.values] if decisive else []
            return {name: value for part in parts for name, value in part.items()}
        subject: ast.AST | None = None
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.In | ast.NotIn):
            choices = self.evaluate(test.comparators[0])
            if isinstance(test.ops[0], ast.In) == holds and all(map(operations.is_closed_choice, choices)):
                subject = test.left
        elif isinstance(test, ast.Call) and holds:
            if isinstance(test.func, ast.Attribute) and test.func.attr in _CHECKS:
                subject = test.func.value
            elif path_of(test.func) == "isinstance" and len(test.args) == 2:
                kinds = test.args[1].elts if isinstance(test.args[1], ast.Tuple) else [test.args[1]]
                plain = {(path_of(kind) or "").rsplit(".", 1)[-1] for kind in kinds} <= _PLAIN_TYPES
                subject = test.args[0] if plain else None
        name = path_of(subject)
        return {} if name is None else {name: (template.cleanse(*self.evaluate(subject)),)}

    def _all(self, nodes: Sequence[ast.AST | None]) -> list[Alternatives]:
        return [self.evaluate(n) for n in nodes]

    def _unknown(self, node: ast.AST) -> Alternatives:
        children = self._all([n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)])
        return (template.merge(*itertools.chain(*children)),)

    def _opaque(self, node: ast.AST) -> Alternatives:
        self._unknown(node)
        return (template.merge(),)

    _compare = _slice = _opaque

    def _lambda(self, node: ast.Lambda) -> Alternatives:
        return (template.merge(),)

    def _constant(self, node: ast.Constant) -> Alternatives:
        return (template.text(str(node.value)),)

    def _name(self, node: ast.Name) -> Alternatives:
        return self.env.get(node.id, (template.merge(),))

    def _attribute(self, node: ast.Attribute) -> Alternatives:
        known = self.env.get(path_of(node) or "")
        return known if known is not None else (template.merge(*self.evaluate(node.value)),)

    def _namedexpr(self, node: ast.NamedExpr) -> Alternatives:
        self.env[node.target.id] = self.evaluate(node.value)
        return self.env[node.target.id]

    def _value(self, node: ast.Await | ast.Starred) -> Alternatives:
        return self.evaluate(node.value)

    _await = _starred = _value

    def _ifexp(self, node: ast.IfExp) -> Alternatives:
        self.evaluate(node.test)
        before = dict(self.env)
        values: list[Value] = []
        for branch, holds in ((node.body, True), (node.orelse, False)):
            self.env.update(self.narrowed(node.test, holds=holds))
            values += self.evaluate(branch)
            self.env.clear()
            self.env.update(before)
        return limit(values)

    def _boolop(self, node: ast.BoolOp) -> Alternatives:
        return limit(itertools.chain(*self._all(node.values)))

    def _unaryop(self, node: ast.UnaryOp) -> Alternatives:
        return (template.cleanse(*self.evaluate(node.operand)),)

    def _sequence(self, node: ast.Tuple | ast.List | ast.Set) -> Alternatives:
        items: list[Value] = []
        open_ended = False
        for element in node.elts:
            value = self.evaluate(element)[0]
            spread = isinstance(element, ast.Starred)
            open_ended |= spread and (value.shape == "text" or value.open_ended)
            items += value.items if spread and value.shape != "text" else [value]
        shape = "tuple" if isinstance(node, ast.Tuple) else "list" if isinstance(node, ast.List) else "set"
        return (template.container(shape, items, open_ended=open_ended),)

    _tuple = _list = _set = _sequence

    def _dict(self, node: ast.Dict) -> Alternatives:
        items = [alternatives[0] for alternatives in self._all(node.values)]
        keys = [None if k is None else self.evaluate(k)[0].constant for k in node.keys]
        return (template.container("dict", items, keys=keys, open_ended=None in node.keys),)

    def _comprehension(self, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Alternatives:
        before = dict(self.env)
        for generator in node.generators:
            self.bind(
                generator.target, limit(itertools.chain(*map(operations.elements, self.evaluate(generator.iter))))
            )
            for test in generator.ifs:
                self.env.update(self.narrowed(test, holds=True))
        element = self.evaluate(node.elt)[0]
        self.env.clear()
        self.env.update(before)
        # Two copies of the element show a joined text with its separator.
        return (template.container("list", [element, element], open_ended=True),)

    _listcomp = _generatorexp = _setcomp = _comprehension

    def _joinedstr(self, node: ast.JoinedStr) -> Alternatives:
        return combine(lambda *values: template.concat(values), *self._all(node.values))

    def _formattedvalue(self, node: ast.FormattedValue) -> Alternatives:
        conversion = chr(node.conversion) if node.conversion > 0 else None
        values = self.evaluate(node.value)
        spec = self.evaluate(node.format_spec)[0] if node.format_spec is not None else template.text("")
        if (known := spec.constant) is None:
            return (template.merge(*values, spec),)
        return combine(lambda value: template.with_spec(value, known, conversion), values)

    def _binop(self, node: ast.BinOp) -> Alternatives:
        left, right = self.evaluate(node.left), self.evaluate(node.right)
        numeric = any(isinstance(n, ast.Constant) and not isinstance(n.value, str) for n in (node.left, node.right))
        if isinstance(node.op, ast.Add) and not numeric:
            return combine(operations.add, left, right)
        if isinstance(node.op, ast.Mod):
            return combine(template.percent, left, right)
        if isinstance(node.op, ast.Mult):
            return combine(operations.repeat, left, right)
        return (template.cleanse(*left, *right),)

    def _subscript(self, node: ast.Subscript) -> Alternatives:
        return combine(operations.select, self.evaluate(node.value), self.evaluate(node.slice))

    def _call(self, node: ast.Call) -> Alternatives:
        target = node.func
        name = target.attr if isinstance(target, ast.Attribute) else target.id if isinstance(target, ast.Name) else ""
        receiver = self.evaluate(target.value) if isinstance(target, ast.Attribute) else None
        if not name:
            self.evaluate(target)
        args = self._all(node.args)
        keywords = self._all([k.value for k in node.keywords])
        starred = any(isinstance(a, ast.Starred) for a in node.args) or any(k.arg is None for k in node.keywords)
        if self._record(node, name, args, keywords, starred) and name not in ("text", "raw"):
            return (template.merge(),)
        if isinstance(target, ast.Attribute) and name in _GROWING and args:
            if (owner := path_of(target.value)) in self.env and owner is not None:
                grown = combine(lambda old, new: operations.extended(old, name, new), self.env[owner], args[-1])
                self.env[owner] = grown
            return (template.merge(),)
        rest = template.merge(*itertools.chain(*args, *keywords)) if starred else template.merge()
        names = [] if starred else [k.arg or "" for k in node.keywords]
        options = [] if starred else [*args, *keywords]
        n_args = len(options) - len(names)
        return combine(
            lambda on, *values: operations.call_result(
                name, on, values[:n_args], dict(zip(names, values[n_args:], strict=True)), rest
            ),
            receiver or (None,),
            *options,
        )

    def _record(
        self, node: ast.Call, name: str, args: list[Alternatives], keywords: list[Alternatives], starred: bool
    ) -> bool:
        """Remember a call that may run SQL; the same call seen again adds alternatives."""
        if name not in _SINKS and not name.startswith("fetch"):
            return False
        named = {k.arg: value for k, value in zip(node.keywords, keywords, strict=True) if k.arg is not None}
        keyword = next((k for k in _SQL_KEYWORDS if k in named), None)
        if node.args and not isinstance(node.args[0], ast.Starred):
            templates, argument = args[0], node.args[0]
        elif keyword is not None:
            templates = named.pop(keyword)
            argument = next(k.value for k in node.keywords if k.arg == keyword)
        else:
            return False
        # execute(text("...")) is one call to judge, not two.
        self.calls.pop((argument.lineno, argument.col_offset), None)
        key = (node.lineno, node.col_offset)
        if key in self.calls:
            templates = limit([*self.calls[key].templates, *templates])
        bound = tuple(a[0] for a in args[1:])
        self.calls[key] = Call(name, templates, bound, {k: v[0] for k, v in named.items()}, starred, node, argument)
        return True
