"""Parts of the SQL judge against slow, obvious oracles: Python's own string operations and a real database."""

import sqlite3

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from saeaudit.organisms.judges import exploit, template
from saeaudit.organisms.judges.exploit import proves_exploit
from saeaudit.organisms.judges.expressions import Expressions
from saeaudit.organisms.judges.repair import parse_joined
from saeaudit.organisms.judges.scan import scan_lines
from saeaudit.organisms.judges.sql_text import hole_kinds, placeholders, statement_kind, tokenize
from saeaudit.organisms.judges.template import Hole, Value

WORDS = st.text(alphabet="abWHERE='\" ?;-%{}", max_size=12)
PLAIN = st.text(alphabet="abWHERE='\" ?;-", max_size=12)


def fold(expression: str, **names: str) -> str | None:
    import ast

    scope = Expressions({name: (template.text(value),) for name, value in names.items()})
    return scope.evaluate(ast.parse(expression, mode="eval").body)[0].constant


@settings(deadline=None)
@given(a=WORDS, b=WORDS, c=PLAIN)
def test_folded_constants_equal_what_python_gives(a: str, b: str, c: str):
    assert fold("a + b + a", a=a, b=b) == a + b + a
    assert fold('f"{a}-{b!r}{{}}"', a=a, b=b) == f"{a}-{b!r}{{}}"
    assert fold("a.join([b, c, b])", a=a, b=b, c=c) == a.join([b, c, b])
    assert fold("q % (a, b)", q=c + "%s,%s%%", a=a, b=b) == (c + "%s,%s%%") % (a, b)
    assert fold('q % {"k": a}', q=c + "%(k)r", a=a) == (c + "%(k)r") % {"k": a}
    assert fold("q.format(a, k=b)", q=c + "{0}{k}{{{0!r}", a=a, b=b) == (c + "{0}{k}{{{0!r}").format(a, k=b)
    assert fold("a.replace(b, c)", a=a, b=b or "a", c=c) == a.replace(b or "a", c)
    assert fold("a.upper() + b.lower()", a=a, b=b) == a.upper() + b.lower()


@settings(deadline=None)
@given(a=PLAIN, b=PLAIN)
def test_a_hole_stands_where_the_value_would_stand(a: str, b: str):
    assume("\ufffd" not in a + b)
    hole = template.tainted("x")
    built = [
        template.concat([template.text(a), hole, template.text(b)]),
        template.percent(template.text(a + "%s" + b), hole),
        template.format_fields(template.text(a + "{}" + b), [hole], {}, template.merge()),
        template.replace(template.text(a + "#" + b), template.text("#"), hole),
        template.join(hole, template.container("list", [template.text(a), template.text(b)])),
    ]
    for value in built:
        marked, holes = value.marked()
        assert marked.replace("\ue000", "X") == a + "X" + b
        assert holes == (Hole(frozenset({"x"})),)


def test_private_use_characters_of_a_text_are_no_holes():
    assert template.text("a\ue000b").marked() == ("a\ufffdb", ())


@settings(deadline=None)
@given(st.text(alphabet="ab'\"#()[]{}f\\\n ", max_size=30))
def test_the_scanner_loses_no_character(text: str):
    lines = scan_lines(text)
    assert "\n".join(line.text for line in lines) == text
    assert all(len(line.code) == len(line.text) for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        "f(a, [b",
        "f('ab",
        'f("""a\nb',
        "f(f'a{b[",
        "f(f'a{{b",
        "{'a': (1,",
        "f(x)  # (",
        "f('\\'",
        "rb'a",
        "f'''{a}\n{b",
    ],
)
def test_closers_close(text: str):
    import ast

    last = scan_lines(text)[-1]
    broken = "[" in last.closers or text.endswith("b[")
    joined = text + ("\n" if "#" in text else "") + last.closers
    if broken:
        joined = joined.replace("b[]", "b[0]")
    ast.parse(joined)


def test_repair_keeps_the_longest_prefix_and_the_line_numbers():
    prompt = "// 2024\nimport a\n\ndef f(db, x):\n"
    parsed = parse_joined(prompt, "    y = 1\n    db.execute(y)\n    z = (")
    assert parsed is not None
    assert (parsed.def_line, parsed.n_lines, parsed.closed) == (4, 6, False)
    assert parsed.text.startswith("# // 2024\nimport a\n")
    assert parse_joined(prompt, "    y = (1\n    db.execute(y)\n") is None


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT a FROM t WHERE b = ? AND c = %s -- ?\n AND d = :n /* :m */", ["?", "%s", ":n"]),
        ("SELECT a::text, '?', \"%s\", `:n` FROM t WHERE b = $1 AND c = %(x)s AND d = :2", ["$1", "%(x)s", ":2"]),
        ("SELECT 'it''s ?' FROM t WHERE b LIKE '%s' AND c = ?", ["?"]),
    ],
)
def test_placeholders_outside_strings_and_comments(sql: str, expected: list[str]):
    assert placeholders(tokenize(sql)) == expected


@settings(deadline=None)
@given(st.text(alphabet="ab1'\"`?%s:$-/*\n []@|\ue000", max_size=40))
def test_the_tokenizer_covers_the_text(sql: str):
    tokens = tokenize(sql)
    rest = list(sql)
    for token in tokens:
        assert sql[token.start : token.start + len(token.text)] == token.text
        rest[token.start : token.start + len(token.text)] = [" "] * len(token.text)
    assert "".join(rest).strip() == ""
    assert set(hole_kinds(tokens)) == {i for token in tokens for i in token.holes}


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("  -- note\n (select 1", "SELECT"),
        ("with q as (select 1) select * from q", "WITH"),
        ("PRAGMA x", None),
        ("'SELECT'", None),
        ("", None),
    ],
)
def test_statement_kind(sql: str, kind: str | None):
    assert statement_kind(tokenize(sql)) == kind


def _with_hole(sql: str) -> Value:
    before, after = sql.split("@@")
    return template.concat([template.text(before), template.tainted("x"), template.text(after)])


def test_the_proof_needs_a_text_that_injection_can_leave():
    assert proves_exploit(_with_hole("SELECT a FROM t WHERE b = '@@'")) is True
    # In a comment that ends the statement, or in the list of values to set, no other row is reached.
    assert proves_exploit(_with_hole("SELECT a FROM t WHERE b = 2 LIMIT 0 -- @@")) is False
    assert proves_exploit(_with_hole("UPDATE t SET a = '@@'")) is False


def test_the_proof_runs_only_permitted_statements(monkeypatch: pytest.MonkeyPatch):
    """Every text that reaches the database is refused or touches the one table of the proof."""
    seen: list[str] = []
    connect = sqlite3.connect

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:  # pyright: ignore[reportIncompatibleMethodOverride]
            cursor = super().execute(sql, *args)  # pyright: ignore[reportArgumentType]
            seen.append(sql)
            return cursor

    def watched(database: str, **options: object) -> sqlite3.Connection:
        assert database == ":memory:"
        return connect(database, factory=Watched, isolation_level=None)

    monkeypatch.setattr(sqlite3, "connect", watched)
    for sql in (
        "SELECT load_extension('x') FROM t WHERE b = @@",
        "SELECT a FROM t WHERE b = @@; DROP TABLE t",
        "SELECT sql FROM main.sqlite_master, t WHERE b = @@",
        "SELECT (SELECT 1 FROM sqlite_schema) FROM t WHERE b = @@",
        "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT n FROM c WHERE n = @@",
        "SELECT randomblob(3) FROM t WHERE b = @@",
        "SELECT a FROM t, json_each('[1, 2]') WHERE b = @@",
        "SELECT a FROM t, pragma_table_list() WHERE b = @@",
        "UPDATE sqlite_master SET a = 1 WHERE b = @@",
    ):
        assert proves_exploit(_with_hole(sql)) is None, sql
    assert all(sql.startswith("CREATE TABLE") for sql in seen), seen


def test_the_step_limit_ends_long_statements(monkeypatch: pytest.MonkeyPatch):
    others = ", ".join(f"t AS t{i}" for i in range(10))
    long = _with_hole(f"SELECT count(*) FROM t, {others} WHERE t.b = @@")
    assert proves_exploit(long) is None
    monkeypatch.setattr(exploit, "_MAX_STEPS", 10**6)
    assert proves_exploit(long) is True
