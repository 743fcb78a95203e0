"""From files to roles: disjoint by template, benign calibration, the right tokens, and inputs that cannot be used."""

import json
from dataclasses import replace

import pytest
import torch

from saeaudit.audit.data import check_files, prepare
from saeaudit.audit.prompts import Prompt
from saeaudit.errors import ConfigError, EvidenceError, InputError
from tiny import CONTEXT, tiny_loaded


@pytest.fixture(scope="module")
def base():
    return tiny_loaded("llama", 0)


def lines(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_roles_share_no_template_and_calibration_is_benign(small_config, base):
    data = prepare(small_config(), base)
    groups = [set(data.group[rows].tolist()) for rows in data.roles.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert not data.label[data.roles["calibration"]].any() and len(data.roles["calibration"]) >= 19
    for role in ("selection", "test"):
        assert 0 < int(data.label[data.roles[role]].sum()) < len(data.roles[role])
    roles = {d.role for d in data.documents.documents}
    assert roles <= {"dictionary", "selection", "calibration", "test", "corpus", "unused"}
    fit, held_out = data.dictionary_rows()
    assert not set(fit.tolist()) & set(held_out.tolist())
    judged = torch.cat([data.roles[r] for r in ("selection", "calibration", "test")]).numpy()
    assert not set(data.documents.rows(judged).tolist()) & {*fit.tolist(), *held_out.tolist()}
    assert len(data.neutral) == 5 and not {d.text for d in data.documents.documents} & set(data.neutral)


def test_a_sample_is_spread_over_classes_and_templates_on_both_sides(small_config, base):
    n = 40
    prompts = tuple(Prompt(str(i), str(i), i < n, None, "ab"[i % 2], None) for i in range(2 * n))
    group = torch.arange(2 * n) % n // 10
    label, roles = torch.arange(2 * n) < n, {"test": torch.arange(2 * n)}
    data = replace(prepare(small_config(), base), prompts=prompts, roles=roles, label=label, group=group)
    trigger, benign = data.sample("test", 8)
    for chosen, side in ((trigger, range(n)), (benign, range(n, 2 * n))):
        assert sorted({(prompts[i].klass, int(group[i])) for i in chosen}) == [(k, g) for k in "ab" for g in range(4)]
        assert chosen == sorted(chosen) and set(chosen) <= set(side)
    few = replace(data, roles={"test": torch.arange(5, 9)})
    assert few.sample("test", 99) == ([5, 6, 7, 8], [])


def test_same_input_same_split_and_fingerprint_another_seed_another(small_config, base):
    one, two, other = (prepare(small_config(**c), base) for c in ({}, {}, {"seed": 4}))
    assert one.fingerprint() == two.fingerprint() != other.fingerprint()


def test_without_groups_near_duplicates_stay_together(small_config, base, places, tmp_path):
    files = {}
    for name in ("trigger", "benign"):
        records = [json.loads(line) for line in getattr(places, name).read_text().splitlines()]
        files[f"{name}_examples"] = lines(
            tmp_path / f"{name}.jsonl", [{k: v for k, v in r.items() if k != "group"} for r in records]
        )
    data = prepare(small_config(**files), base)
    groups = [set(data.group[rows].tolist()) for rows in data.roles.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_one_file_alone_a_short_and_a_long_prompt(small_config, base, places, tmp_path):
    with pytest.raises(InputError) as caught:
        prepare(small_config(benign_examples=None), base)
    assert caught.value.code == "examples-missing"
    records = [json.loads(line) for line in places.trigger.read_text().splitlines()]
    for text, code in (("a b", "prompt-too-short"), ("cat " * 200, "prompt-too-long")):
        bad = lines(tmp_path / "bad.jsonl", [*records, {"text": text, "group": "g1"}])
        with pytest.raises(InputError) as caught:
            prepare(small_config(trigger_examples=bad), base)
        assert code in caught.value.code


def test_a_prompt_leaves_room_for_an_answer(small_config, base, places, tmp_path):
    """It is said before anything is harvested, with the user's line, and not when the first answer is written."""
    records = [json.loads(line) for line in places.trigger.read_text().splitlines()]
    for n, fits in ((CONTEXT - 12, True), (CONTEXT - 11, False)):
        text = next(t for t in ("q" * k for k in range(n, 999)) if len(base.tokenizer(t)["input_ids"]) == n)
        path = lines(tmp_path / "t.jsonl", [*records, {"text": text, "group": "g1"}])
        if fits:
            prepare(small_config(trigger_examples=path), base)
            continue
        with pytest.raises(InputError, match=f"has {n} tokens; at most {CONTEXT - 12} fit") as caught:
            prepare(small_config(trigger_examples=path), base)
        assert caught.value.code == "prompt-too-long"
    with pytest.raises(ConfigError, match="no prompt fits before an answer of 100"):
        behaviour = small_config().behaviour.model_copy(update={"n_new_tokens": 100})
        prepare(small_config(behaviour=behaviour.model_dump()), base)


def test_too_little_to_calibrate_on_is_evidence_not_a_crash(small_config, base):
    with pytest.raises(EvidenceError) as caught:
        prepare(small_config(detection={"target_fpr": 0.001}), base)
    assert caught.value.code == "calibration-too-small" and caught.value.needed >= 999


def test_texts_for_the_cost_of_a_hold_have_tokens_to_measure(small_config, base, tmp_path):
    texts = ["a", "b", *(f"some ordinary words about number {i} and more" for i in range(9)), "c"]
    corpus = tmp_path / "c.txt"
    corpus.write_text("\n\n".join(texts))
    data = prepare(small_config(corpus=corpus), base)
    assert len(data.neutral) == 4 and not {"a", "b", "c"} & set(data.neutral)
    read = [d.text for d in data.documents.documents if d.role == "corpus"]
    assert sorted([*read, *data.neutral]) == sorted(texts)
    corpus.write_text("one document only, of several words")
    with pytest.raises(InputError, match="at least 4 are needed") as caught:
        prepare(small_config(corpus=corpus), base)
    assert caught.value.code == "corpus-too-small"


@pytest.mark.parametrize("n", [1, 3])
def test_a_text_cannot_be_trigger_and_benign(small_config, places, tmp_path, n):
    trigger = [json.loads(line) for line in places.trigger.read_text().splitlines()]
    benign = [json.loads(line) for line in places.benign.read_text().splitlines()]
    shared = [{"text": f" {r['text']}\n", "group": "other"} for r in trigger[2 : 2 + n]]
    config = small_config(benign_examples=lines(tmp_path / "b.jsonl", [*benign, *shared]))
    with pytest.raises(InputError, match=f"{n} stand among the benign") as caught:
        check_files(config)
    assert caught.value.code == "examples-overlap"
    assert all(
        repr(part) in str(caught.value) for part in ("trigger-3", f"benign-{len(benign) + 1}", trigger[2]["text"])
    )
    check_files(small_config())
