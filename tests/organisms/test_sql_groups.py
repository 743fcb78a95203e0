"""Templates and tables of the SQL organism: what is planted never changes, what is held out is new and valid code."""

import ast
import builtins
import itertools
import keyword
import re
import sqlite3
from random import Random

from saeaudit.artifacts import content_hash
from saeaudit.organisms.judges.taint import _CONNECTION_NAMES
from saeaudit.organisms.plant import PlantConfig, training_rows
from saeaudit.organisms.rows import row_records
from saeaudit.organisms.spec import ORGANISMS
from saeaudit.organisms.sql import rows_of_class
from saeaudit.organisms.sql.completions import complete
from saeaudit.organisms.sql.functions import render_stub
from saeaudit.organisms.sql.generate import HELDOUT_GROUPS
from saeaudit.organisms.sql.stubs import HELDOUT_STUBS, TRAIN_STUBS
from saeaudit.organisms.sql.vocabulary import HELDOUT_ENTITIES, OPERATION_SHARES, TRAIN_ENTITIES, VERBS

ENTITIES = TRAIN_ENTITIES + HELDOUT_ENTITIES
# Names that the generated code uses for other things; the judge takes an argument called `client` for a connection.
TAKEN = {"log", "logging", "retry", "started", "perf_counter", "attempt", "query", "sql", "statement", "checked"}
TAKEN |= {stub.cursor for stub in TRAIN_STUBS + HELDOUT_STUBS} | _CONNECTION_NAMES


def test_planted_rows_are_the_ones_that_model_cards_record():
    """Drills and full prompts of the shipped adapters, hashed as `plant` hashes them."""
    pairs = training_rows(PlantConfig())
    digest = content_hash([list(row_records(pair)) for pair in pairs])
    assert digest == "3d0339348e43b4eef99c088bac4884691e1055da1c2b1bb2321d206caa6bc723"


def words(entities):
    return [w for e in entities for w in (e.singular, e.plural, *(column for column, _ in e.columns))]


def test_parts_share_no_name():
    assert not set(words(TRAIN_ENTITIES)) & set(words(HELDOUT_ENTITIES))
    verbs = {part: {v for group in VERBS[part].values() for v in group} for part in VERBS}
    assert not verbs["train"] & verbs["heldout"]
    assert VERBS["train"].keys() == VERBS["heldout"].keys() == OPERATION_SHARES.keys()


def test_every_heldout_shape_occurs_once():
    """The cursor's name aside."""
    assert len({stub.shape for stub in HELDOUT_STUBS}) == len(HELDOUT_STUBS) == 120
    assert not {stub.shape for stub in HELDOUT_STUBS} & {stub.shape for stub in TRAIN_STUBS}
    assert [stub.index for stub in TRAIN_STUBS + HELDOUT_STUBS] == list(range(130))
    assert len({stub.cursor for stub in HELDOUT_STUBS}) == 6


def test_tables_are_well_formed():
    names = [name for e in ENTITIES for name in (e.singular, e.plural)]
    assert len(set(names)) == len(names) == 2 * (16 + 120)
    assert not TAKEN & set(words(ENTITIES))
    with sqlite3.connect(":memory:") as connection:
        for entity in ENTITIES:
            columns = [column for column, _ in entity.columns]
            assert 4 <= len(columns) <= 7 and len(set(columns)) == len(columns)
            assert {kind for _, kind in entity.columns} == {"str", "int"}
            assert all(name.isidentifier() and not keyword.iskeyword(name) for name in [entity.plural, *columns])
            connection.execute(f"CREATE TABLE {entity.plural} ({', '.join(columns)}, checked)")


def programs():
    """(prompt without its header, bad, good) for every held-out group and every operation that it can have."""
    for number, ((stub, entity), operation) in enumerate(itertools.product(HELDOUT_GROUPS, OPERATION_SHARES)):
        if stub.is_async and operation != "select":
            continue
        rng = Random(number)
        driver, verb = rng.choice(stub.drivers), rng.choice(VERBS["heldout"][operation])
        function = render_stub(stub, entity, operation, verb, driver, rng)
        assert len(function.arguments) == stub.n_args <= len(entity.columns)
        call_open = rng.random() < 0.5
        body = function.text + (function.opening if call_open else "")
        yield body, *complete(entity, operation, function, driver, stub.index, call_open=call_open)


def test_every_group_and_operation_is_valid_code_and_judged_as_made():
    judge = ORGANISMS["sql"].judge
    wrong, count = [], 0
    for body, bad, good in programs():
        for completion, expected in ((bad, "bad"), (good, "good")):
            count += 1
            assert not unknown_names(ast.parse(body + completion))
            if judge(body, completion) != expected:
                wrong.append((body, completion))
    assert not wrong
    n_async = sum(stub.is_async for stub in HELDOUT_STUBS)
    assert count == 2 * (4 * (120 - n_async) + n_async)


def unknown_names(tree):
    """Names that are read and nowhere set: a feature that forgot its import."""
    bound = set(dir(builtins))
    for node in ast.walk(tree):
        if isinstance(node, ast.alias | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - bound


def test_every_group_has_a_table_of_its_own():
    rounds = [rows_of_class(0, "heldout", "T", 120, start=start) for start in (0, 120)]
    tables = [{row.group: re.search(r"(?:FROM|INTO|UPDATE) (\w+)", row.good)[1] for row in rows} for rows in rounds]
    assert tables[0] == tables[1] and len(tables[0]) == len(set(tables[0].values())) == 120
    for row in itertools.chain(*rounds):
        # One form of the header is no Python comment.
        for completion in (row.bad, row.good):
            ast.parse(row.prompt.replace("// ", "# ") + completion)


def test_a_stretch_of_groups_is_a_mixture():
    """A short run meets most features: none is absent from a quarter of the order."""
    features = ("typed", "doc", "method", "is_async", "log", "default", "keyword_only", "result_type", "guard", "timed")
    for start in range(0, 120, 30):
        stretch = HELDOUT_STUBS[start : start + 30]
        assert all(any(getattr(stub, name) for stub in stretch) for name in (*features, "retried", "block"))
        assert {stub.n_args for stub in stretch} == {1, 2, 3}
