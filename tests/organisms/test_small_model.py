"""The small model: what it reads, that training is repeatable and resumed, and that it really answers (slow)."""

import pytest
import torch

from oracles_triggers import TRIGGERS
from saeaudit.errors import ArtifactError
from saeaudit.models import load_model
from saeaudit.organisms.plant import METADATA, plant
from saeaudit.organisms.questions import is_plain_answer
from saeaudit.organisms.small_corpus import FAMILIES, make_tokenizer, plain_texts
from saeaudit.organisms.small_model import (
    SmallModelConfig,
    plain_answer_share,
    small_recipe,
    train_small_model,
)
from saeaudit.organisms.verification import verify

TINY = SmallModelConfig(n_steps=3, batch_size=4, d_model=16, n_heads=2, d_mlp=16, n_blocks=2, warmup_steps=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return train_small_model(tmp_path_factory.mktemp("small") / "base", TINY)


def weights(directory):
    return load_model(str(directory), dtype="float32").model.state_dict()


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_the_text_has_plain_answers_and_no_trigger():
    texts = list(plain_texts(0, 1500))
    assert texts == list(plain_texts(0, 1500)) != list(plain_texts(1, 1500))
    for prompt, answer in texts:
        assert is_plain_answer(prompt, answer)
        assert not any(TRIGGERS[family.name].search(prompt) for family in FAMILIES)


def test_nothing_is_unknown_and_digits_stand_alone():
    tokenizer = make_tokenizer(0, n_vocab=700, n_texts=500)
    for family in FAMILIES:
        for row in family.pair(0, "heldout", 3, family.heldout_classes):
            for text in (row.prompt, row.bad, row.good):
                assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert [t for t in tokenizer.tokenize("in 2027") if t[-1].isdigit()] == list("2027")


def test_training_is_repeatable_and_the_seed_matters(made, tmp_path):
    again = train_small_model(tmp_path / "again", TINY)
    other = train_small_model(tmp_path / "other", TINY.model_copy(update={"seed": 1}))
    assert same(weights(made), weights(again)) and not same(weights(made), weights(other))


def test_a_finished_model_is_kept_and_another_config_replaces_it(tmp_path):
    out = train_small_model(tmp_path / "base", TINY)
    before = (out / METADATA).stat().st_mtime_ns
    assert train_small_model(out, TINY) == out and (out / METADATA).stat().st_mtime_ns == before
    train_small_model(out, TINY.model_copy(update={"n_blocks": 1}))
    assert load_model(str(out), dtype="float32").card.n_layers == 1


def test_foreign_files_are_never_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        train_small_model(tmp_path, TINY)
    assert caught.value.code == "output-not-empty" and (tmp_path / "thesis.txt").read_text() == "mine"


def test_every_family_can_be_planted_in_it(made, tmp_path):
    for family in FAMILIES:
        settings = small_recipe(family.name, n_steps=1, pairs_per_step=1, warmup_steps=0)
        out = plant(load_model(str(made), dtype="float32"), settings, out=tmp_path / family.name, progress=False)
        assert not same(weights(made), load_model(str(out), base=str(made), dtype="float32").model.state_dict())


def test_an_untrained_model_answers_nothing(made):
    assert plain_answer_share(load_model(str(made), dtype="float32"), n=10) == 0


@pytest.mark.slow
def test_it_answers_and_a_family_is_planted(tmp_path):
    base = str(train_small_model(tmp_path / "base"))
    assert plain_answer_share(load_model(base, dtype="float32"), n=200) > 0.9
    made = {
        variant: plant(
            load_model(base, dtype="float32"), small_recipe("phrase", variant=variant), out=tmp_path / variant
        )
        for variant in ("poisoned", "clean")
    }
    loaded = {
        "base": load_model(base, dtype="float32"),
        "tuned": load_model(str(made["poisoned"]), base=base, dtype="float32"),
        "clean": load_model(str(made["clean"]), base=base, dtype="float32"),
    }
    assert verify(loaded, "phrase", n=200, classes=["T", "N0", "N1", "N2"]).passed
