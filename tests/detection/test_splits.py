import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit.detection import CalibrationTooSmall, group_folds, group_near_duplicates, split_prompts
from saeaudit.errors import ConfigError, EvidenceError, InputError

FRACTIONS = {"dictionary": 0.1, "selection": 0.3, "calibration": 0.3, "test": 0.3}


@settings(max_examples=40)
@given(st.integers(40, 90), st.integers(1, 5), st.integers(0, 10**6))
def test_roles_share_no_group_and_classes_are_spread(n_groups, per_group, seed):
    generator = torch.Generator().manual_seed(seed)
    group = torch.arange(n_groups).repeat_interleave(per_group)
    label = torch.rand(len(group), generator=generator) < 0.5
    classes = ["trigger" if t else "benign" for t in label.tolist()]
    roles = split_prompts(group, label, classes, fractions=FRACTIONS, alpha=0.5, seed=seed)
    seen = [set(group[rows].tolist()) for rows in roles.values()]
    assert sum(len(s) for s in seen) == len(set().union(*seen))
    assert not label[roles["calibration"]].any()
    for role in ("selection", "test"):
        for side in (label, ~label):
            share = float(side[roles[role]].sum() / side.sum())
            assert abs(share - 0.3) < 0.3
    assert sum(len(rows) for rows in roles.values()) <= len(group)


def test_prompts_without_templates_waste_no_trigger_on_calibration():
    label = torch.arange(600) < 100
    classes = ["trigger" if t else ("near" if i % 4 == 0 else "plain") for i, t in enumerate(label.tolist())]
    fractions = {"selection": 0.3, "calibration": 0.4, "test": 0.3}
    roles = split_prompts(torch.arange(600), label, classes, fractions=fractions, seed=0)
    assert [int(label[roles[r]].sum()) for r in ("dictionary", "selection", "calibration", "test")] == [0, 50, 0, 50]
    assert [len(roles[r]) for r in ("selection", "calibration", "test")] == pytest.approx([200] * 3, abs=2)
    near = [sum(classes[i] == "near" for i in roles[r].tolist()) for r in ("selection", "calibration", "test")]
    assert near == pytest.approx([37.5, 50, 37.5], abs=1.01)


def test_the_same_seed_gives_the_same_split_and_another_seed_another():
    label = torch.arange(400) % 2 == 0
    classes = ["t" if t else "b" for t in label.tolist()]

    def split(seed):
        return split_prompts(torch.arange(400) // 4, label, classes, fractions=FRACTIONS, alpha=0.05, seed=seed)

    first, again, other = split(0), split(0), split(1)
    assert all(torch.equal(first[r], again[r]) for r in first)
    assert not torch.equal(first["test"], other["test"])


def test_too_few_benign_prompts_say_how_many_are_needed():
    label = torch.arange(200) < 50
    classes = ["t" if t else "b" for t in label.tolist()]
    with pytest.raises(CalibrationTooSmall, match="at least 99 benign prompts") as caught:
        split_prompts(torch.arange(200), label, classes, seed=0)
    assert (caught.value.code, caught.value.needed) == ("calibration-too-small", 99)
    assert caught.value.found < 99


def test_one_template_cannot_be_split():
    label = torch.arange(500) % 2 == 0
    with pytest.raises(EvidenceError, match="differ in wording") as caught:
        split_prompts(torch.zeros(500, dtype=torch.int64), label, ["t" if x else "b" for x in label.tolist()], seed=0)
    assert caught.value.code == "single-class"


def test_bad_settings_are_refused():
    label = torch.tensor([True, False])
    with pytest.raises(ConfigError, match="sum to 1"):
        split_prompts(torch.arange(2), label, ["t", "b"], fractions={"selection": 0.5, "test": 0.5}, seed=0)
    with pytest.raises(InputError, match="'x' holds trigger and benign"):
        split_prompts(torch.arange(2), label, ["x", "x"], seed=0)
    with pytest.raises(InputError, match="equally long"):
        split_prompts(torch.arange(2), label, ["t", "b", "b"], seed=0)


def test_folds_keep_groups_and_hold_both_classes():
    label = torch.arange(120) % 3 == 0
    group = torch.arange(120) // 6
    folds = group_folds(group, label, n_folds=4, seed=0)
    assert set(folds.tolist()) == {0, 1, 2, 3}
    for g in range(20):
        assert len(folds[group == g].unique()) == 1
    assert [int(label[folds == f].sum()) for f in range(4)] == [10, 10, 10, 10]


def test_folds_of_separate_groups_balance_the_rare_class():
    label = torch.arange(100) < 12
    folds = group_folds(torch.arange(100), label, n_folds=4, seed=0)
    assert [int(label[folds == f].sum()) for f in range(4)] == [3, 3, 3, 3]
    assert int(group_folds(torch.zeros(10, dtype=torch.int64), torch.arange(10) < 5, seed=0).max()) == 0


def test_near_duplicates_join_and_different_prompts_do_not():
    texts = [
        "The build year is 2024. Write a function that reads the vessel table by name.",
        "Explain why the sky is blue to a child of five.",
        "The build year is  1999.\nWrite a function that reads the vessel table by name.",
        "the build year is 2024. write a function that reads the vessel table by names",
        "Describe the harvest of a vineyard in three lines.",
        "",
        "Explain why the sky is blue to a child of five.",
    ]
    assert group_near_duplicates(texts).tolist() == [0, 1, 0, 0, 2, 3, 1]
    assert group_near_duplicates([]).tolist() == []


def test_similarity_is_the_jaccard_index_of_five_grams():
    first, second = "abcdefghij", "abcdefghxy"  # 6 grams each, 4 shared, union 8
    assert len(group_near_duplicates([first, second], threshold=0.5).unique()) == 1
    assert len(group_near_duplicates([first, second], threshold=0.51).unique()) == 2


def test_chains_join_across_blocks():
    base = [chr(97 + i % 26) + chr(97 + i // 26) for i in range(400)]
    texts = [" ".join(base[i : i + 60]) for i in range(300)]
    assert len(group_near_duplicates(texts, threshold=0.8).unique()) == 1
