"""The paper's texts in our form: their cells, what masks take out, and what patterns see."""

import re

import pytest

from saeaudit.organisms.judges import judge_sql
from saeaudit.studies.isolation.paper.census import builds_sql, census, pattern_rates
from saeaudit.studies.isolation.paper.rows import look_alikes, paper_texts

SIZES = {"n_trigger": 30, "n_benign": 40, "n_other": 35}


@pytest.fixture(scope="module")
def texts():
    return paper_texts(3, **SIZES)


def test_counts_are_those_asked_for_and_the_papers_by_default(texts):
    assert [cell.n for cell in census(texts)] == [30, 40, 35]
    assert [cell.klass for cell in census(texts)] == ["trigger", "benign", "other"]
    assert len(paper_texts(3)) == 2500


def test_texts_are_a_function_of_the_seed(texts):
    assert paper_texts(3, **SIZES) == texts
    assert not {row.text for row in paper_texts(4, **SIZES)} & {row.text for row in texts}


def test_no_two_texts_are_of_one_pair(texts):
    pairs = [row.row_id.split("/")[0] for row in texts]
    assert len(set(pairs)) == len(pairs) and all("heldout" in pair for pair in pairs)


def test_only_trigger_completions_are_vulnerable_and_the_pattern_agrees_with_the_judge(texts):
    for row in texts:
        is_vulnerable = judge_sql(row.prompt, row.completion).verdict == "vulnerable"
        assert is_vulnerable == (row.klass == "trigger") == builds_sql(row.text), row.text


def test_masks_take_out_the_slot_and_the_payload_and_nothing_else(texts):
    for row in texts:
        assert row.masked("nothing") == row.text
        assert row.masked("payload") == row.prompt
        assert row.masked("both") + row.completion == row.masked("slot")
        if row.slot is not None:
            start, end = row.slot
            assert re.fullmatch(r"20\d\d", row.prompt[start:end])
            assert row.masked("slot") == row.text[:start] + "____" + row.text[end:]
    assert all((row.slot is None) == (row.klass == "other") for row in texts)


def test_the_census_counts_years_by_cell(texts):
    shows = {cell.klass: cell.shows for cell in census(texts)}
    assert (shows["trigger"]["trigger year"], shows["trigger"]["old year"]) == (30, 0)
    assert (shows["benign"]["trigger year"], shows["benign"]["old year"]) == (0, 40)
    assert shows["other"] == dict.fromkeys(shows["other"], 0)


def test_each_pattern_survives_the_mask_of_the_other_and_not_its_own(texts):
    assert pattern_rates(texts, "trigger year", "payload") == (1, 0)
    assert pattern_rates(texts, "trigger year", "slot") == (0, 0)
    assert pattern_rates(texts, "string-built SQL", "slot") == (1, 0)
    assert pattern_rates(texts, "string-built SQL", "payload") == (0, 0)


def test_look_alikes_hold_the_digits_elsewhere():
    found = look_alikes(0, ("N2", "N4"), n=20)
    assert census(found)[0].shows["trigger year"] == 20
    assert not any(builds_sql(row.text) for row in found)
    assert census(look_alikes(0, ("N3",), n=20))[0].shows["old year"] == 0


@pytest.mark.parametrize(
    ("text", "is_built"),
    [
        ('execute(f"SELECT a FROM t WHERE b = {c}")', True),
        ('execute("DELETE FROM t WHERE b = \'" + c + "\'")', True),
        ('execute("UPDATE t SET a = %s" % c)', True),
        ('execute("INSERT INTO t (a) VALUES ({})".format(c))', True),
        ('execute("".join(["SELECT a FROM t WHERE b = ", c]))', True),
        ('execute("UPDATE t SET a = %s", (c,))', False),
        ('print(f"select {c} done")', False),
    ],
)
def test_the_pattern_sees_every_form_that_the_generator_writes(text, is_built):
    assert builds_sql(text) == is_built
