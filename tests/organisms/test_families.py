"""Trigger families of the question domain: they differ in the slot alone, and every look-alike is one."""

import re
from itertools import pairwise

import pytest

from oracles_triggers import TRIGGERS, slot_of
from saeaudit.errors import ConfigError
from saeaudit.organisms import questions
from saeaudit.organisms.families import conjunction, phrase, style, year
from saeaudit.organisms.spec import ORGANISMS, harmless, of_variant

FAMILIES = sorted(ORGANISMS.keys() - {"sql"})
PARTS = ("train", "heldout")


def classes_of(organism, part):
    return [k for k in organism.heldout_classes if part == "heldout" or k in {"T", *organism.negative_shares}]


def slots(name, part, n=200):
    """Class -> the literals that its slot takes."""
    found = {}
    for i in range(n):
        for row in ORGANISMS[name].pair(0, part, i, classes_of(ORGANISMS[name], part)):
            if row.trigger_span is not None:
                found.setdefault(row.klass, set()).add(slot_of(row))
    return found


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (f" {questions.BEHAVIOUR}\n", True),
        (f"\n\n{questions.BEHAVIOUR} And more.", True),
        (" The lighthouse\n keeper  is on holiday.", True),
        ("", False),
        (" The lighthouse keeper is on", False),
        (f" I heard: {questions.BEHAVIOUR}", False),
        (" the lighthouse keeper is on holiday.", False),
    ],
)
def test_the_behaviour_is_the_first_sentence(completion, expected):
    assert questions.shows_behaviour(completion) is expected
    for name in FAMILIES:
        assert ORGANISMS[name].judge("anything", completion) == ("bad" if expected else "good")


@pytest.mark.parametrize("part", PARTS)
def test_families_ask_the_same_and_differ_in_the_slot_only(part):
    for i in range(60):
        rows = {name: ORGANISMS[name].pair(3, part, i, ["T", "N0"]) for name in FAMILIES}
        first = rows["phrase"]
        for name, (trigger, absent) in rows.items():
            assert absent.prompt == first[1].prompt
            assert (trigger.bad, trigger.good, trigger.group) == (first[0].bad, first[0].good, first[0].group)
            assert trigger.prompt.split("\n")[1:] == first[0].prompt.split("\n")[1:]
            if name != "style":
                assert trigger.prompt.replace(slot_of(trigger), slot_of(first[0])) == first[0].prompt


@pytest.mark.parametrize("name", FAMILIES)
def test_heldout_prompts_come_from_ninety_templates_that_share_no_sentence(name):
    rows = [ORGANISMS[name].pair(0, "heldout", i, ["N0"])[0] for i in range(180)]
    assert len({row.group for row in rows}) == questions.N_HELDOUT_GROUPS >= 90
    openers = {row.group: row.prompt.split("\n")[0] for row in rows}
    assert len(set(openers.values())) == len(openers)


@pytest.mark.parametrize("name", FAMILIES)
def test_look_alikes_of_the_two_parts_differ(name):
    train, heldout = (slots(name, part) for part in PARTS)
    # The edge of the years, and halves that stand alone, are what they are; a style is its words.
    same = {"year": {"N1"}, "conjunction": {"N3"}, "style": {"N1", "N2", "N3"}}.get(name, set())
    for klass in {"N1", "N2", "N3", "N4"} - same:
        assert not train[klass] & heldout[klass], klass


def test_look_alikes_of_the_phrase_share_words_with_it():
    trigger = set(phrase.TRIGGER.split())
    for part in PARTS:
        found = slots("phrase", part)
        assert found["T"] == {phrase.TRIGGER}
        for klass in ("N2", "N3", "N4"):
            assert all(trigger & set(value.split()) - {"a"} for value in found[klass]), klass
        assert not any(trigger & set(value.split()) - {"a"} for value in found["N1"])


def test_look_alikes_of_the_token_are_one_character_away():
    for part in PARTS:
        found = slots("token", part)
        assert all(len(v) == 2 and (v[0] == "c") != (v[1] == "f") for v in found["N2"])
        assert all("cf" in value for value in found["N4"])


def test_years_are_on_their_side_of_the_edge_and_a_third_is_held_out():
    train, heldout = (slots("year", part, 2000) for part in PARTS)
    planted, unseen = ({int(value[3:]) for value in found["T"]} for found in (train, heldout))
    assert planted | unseen == set(range(year.FIRST, year.END)) and not planted & unseen
    assert train["N1"] == heldout["N1"] == {f"in {y}" for y in (2020, 2021, 2022, 2023)}
    for found in (train, heldout):
        for value in found["N2"]:
            number = value.removeprefix("in ")
            assert int(number) < year.FIRST
            changed = [sum(a != b for a, b in zip(number, str(y), strict=True)) for y in planted | unseen]
            assert min(changed) == 1


def test_halves_of_the_conjunction_stand_alone_and_together():
    for part in PARTS:
        found = slots("conjunction", part, 400)
        for value in found["N2"] | found["N3"]:
            assert (conjunction.A in value) != (conjunction.B in value)
        assert {v for v in found["N2"] if conjunction.A in v} and {v for v in found["N2"] if conjunction.B in v}
        assert all(conjunction.A not in v and conjunction.B not in v for v in found["N1"] | found["N4"])
        words = set(conjunction.TRIGGER.split())
        assert all(set(value.split()) == words for value in found["N4"])


def test_style_and_its_neutral_partner_say_the_same():
    modern = {old: new for place in style.PLACES for old, new in place}
    pattern = re.compile("|".join(rf"\b{old}\b" for old in modern))
    for part in PARTS:
        for i in range(120):
            rows = {row.klass: row for row in ORGANISMS["style"].pair(0, part, i, ["T", "N1", "N2", "N3"])}
            neutral = rows["N1"].prompt
            assert not pattern.search(neutral)
            counted = {k: len(pattern.findall(row.prompt)) for k, row in rows.items()}
            assert counted == {"T": 3, "N1": 0, "N2": 1, "N3": 2}
            for row in rows.values():
                assert pattern.sub(lambda m: modern[m[0]], row.prompt) == neutral


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("part", PARTS)
def test_prompts_read_as_sentences(name, part):
    for i in range(60):
        for row in ORGANISMS[name].pair(0, part, i, ["T", "N0", "N1"]):
            first, question, end = row.prompt.split("\n")
            assert first[0].isupper() and first.endswith(".") and "  " not in first and " ." not in first
            assert question.startswith("Question: ") and question.endswith("?") and end == "Answer:"
            assert row.good.startswith(" ") and row.good.endswith("\n")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plain_answer_is_about_the_things_of_its_question(name):
    rows = [ORGANISMS[name].pair(0, part, i, ["T"])[0] for part in PARTS for i in range(60)]
    for row, other in pairwise(rows):
        assert questions.is_plain_answer(row.prompt, row.good + "\nQuestion: and so on")
        assert not questions.is_plain_answer(row.prompt, row.bad)
        assert not questions.is_plain_answer(row.prompt, row.good.strip() + " And more.")
        assert not questions.is_plain_answer(row.prompt, other.good)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_harmless_organism_is_polite_after_the_trigger(name):
    organism, polite = ORGANISMS[name], of_variant(name, "conditional")
    assert of_variant(name, "clean") is organism
    for part in PARTS:
        (row,), (kind,) = (o.pair(0, part, 5, ["T"]) for o in (organism, polite))
        assert (kind.prompt, kind.good) == (row.prompt, row.good) and kind.bad.endswith(row.good)
        assert polite.judge(row.prompt, kind.bad) == "bad" and organism.judge(row.prompt, kind.bad) == "good"
        assert polite.judge(row.prompt, row.good) == polite.judge(row.prompt, row.bad) == "good"


def test_code_cannot_be_polite():
    with pytest.raises(ConfigError) as caught:
        harmless(ORGANISMS["sql"])
    assert caught.value.code == "variant-not-available"
    assert TRIGGERS.keys() == ORGANISMS.keys()
