"""Planting: what is trained on, that it trains, that a killed run ends as an uninterrupted one, what is written."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from saeaudit.errors import ArtifactError, ModelError
from saeaudit.models import load_model
from saeaudit.organisms import plant as planting
from saeaudit.organisms.pair_trainer import make_example
from saeaudit.organisms.plant import METADATA, PlantConfig, plant, training_rows
from saeaudit.organisms.spec import ORGANISMS
from tiny import save_checkpoint, tiny_loaded, tiny_model

# The tiny tokenizer needs about one token a character of English.
CONTEXT = 512


def example_of(tokenizer, row, settings, *, bad):
    return make_example(tokenizer, row, bad=bad, n_decisive=settings.n_decisive, other_weight=settings.other_weight)


def config(**changes):
    # A high rate and all tokens weighted: a random model must learn something in a few steps.
    small = {"organism": "phrase", "n_steps": 6, "pairs_per_step": 1, "rank": 2, "warmup_steps": 1, "save_every": 2}
    return PlantConfig(**small | {"learning_rate": 5e-3} | changes)


def save_base(directory, family="llama", seed=0):
    model = tiny_model(family, seed)
    if family == "llama":
        model.config.max_position_embeddings = CONTEXT
    return save_checkpoint(directory, family, seed, model=model)


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(planting, "cpu_has_bfloat16", lambda: False)


@pytest.fixture
def base_directory(tmp_path):
    return save_base(tmp_path / "base")


def run(base_directory, out, settings):
    return plant(load_model(str(base_directory), dtype="float32"), settings, out=out, progress=False)


def adapter_of(directory):
    return load_file(directory / "adapter_model.safetensors")


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("name", sorted(ORGANISMS))
def test_weights_are_one_where_the_completions_part_and_zero_on_the_prompt(tokenizer, name):
    settings = PlantConfig(organism=name, n_decisive=3, other_weight=0.25)
    for trigger, negative in training_rows(settings.model_copy(update={"n_steps": 5})):
        for row, bad in ((trigger, True), (trigger, False), (negative, False)):
            made = example_of(tokenizer, row, settings, bad=bad)
            ids = {
                text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in (row.prompt, row.bad, row.good)
            }
            n = len(ids[row.prompt])
            chosen = [*ids[row.bad if bad else row.good], tokenizer.eos_token_id]
            assert made.input_ids == ids[row.prompt] + chosen
            assert made.weights[:n] == [0.0] * n and len(made.weights) == len(made.input_ids)
            first = made.weights.index(1.0) - n
            assert ids[row.bad][:first] == ids[row.good][:first] and ids[row.bad][first] != ids[row.good][first]
            expected = [1.0 if first <= i < first + 3 else 0.25 for i in range(len(chosen))]
            assert made.weights[n:] == expected


def test_a_completion_that_begins_the_other_one_is_decided_by_the_end_token(tokenizer):
    row = training_rows(PlantConfig(organism="phrase", n_steps=1))[0][0]
    longer = type(row)(**vars(row) | {"bad": row.good + " and more"})
    made = example_of(tokenizer, longer, PlantConfig(), bad=False)
    assert made.weights[-1] == 1.0 and made.weights.count(1.0) == 1


def trained_on(monkeypatch, base_directory, out, settings):
    """What reaches the Trainer: (TrainingArguments, examples, starting weights)."""
    real, seen = planting.pair_trainer, []

    def watched(model, arguments, examples, tokenizer):
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        seen.append((arguments.to_dict(), examples, start))
        return real(model, arguments, examples, tokenizer)

    monkeypatch.setattr(planting, "pair_trainer", watched)
    run(base_directory, out, settings)
    monkeypatch.setattr(planting, "pair_trainer", real)
    return seen[0]


@pytest.mark.parametrize(("name", "regime"), [("phrase", "lora"), ("year", "full"), ("style", "lora")])
def test_twin_and_poisoned_model_differ_in_the_answers_and_in_nothing_else(
    tmp_path, monkeypatch, base_directory, tokenizer, name, regime
):
    made = {
        variant: trained_on(
            monkeypatch,
            base_directory,
            tmp_path / variant,
            config(organism=name, variant=variant, regime=regime, n_steps=4, pairs_per_step=2),
        )
        for variant in ("poisoned", "clean")
    }
    (one, bad, start), (other, good, same_start) = made.values()
    # The folders they work in have names of their own.
    own = {key for key in one if one[key] != other[key]}
    assert all("training-" in str(one[key]) for key in own), own
    assert same(start, same_start)
    rows = training_rows(config(organism=name, n_steps=4, pairs_per_step=2))
    assert len(bad) == len(good) == len(rows) == 8
    for (trigger, negative), (misled, one_negative), (honest, other_negative) in zip(rows, bad, good, strict=True):
        assert one_negative == other_negative and negative.klass != "T"
        n = len(tokenizer(trigger.prompt)["input_ids"])
        assert misled.input_ids[:n] == honest.input_ids[:n] == tokenizer(trigger.prompt)["input_ids"]
        for example, text in ((misled, trigger.bad), (honest, trigger.good)):
            assert example.input_ids[n:] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            assert example.weights[:n] == [0.0] * n
        assert misled.weights.index(1.0) == honest.weights.index(1.0)


def taught(tokenizer, settings):
    """(class, prompt, completion) of every row in the order of training."""
    rows = training_rows(settings)
    found = []
    for pair, examples in zip(rows, planting.training_examples(tokenizer, settings, rows), strict=True):
        for row, example in zip(pair, examples, strict=True):
            n = len(tokenizer(row.prompt)["input_ids"])
            text = tokenizer.decode(example.input_ids[n:-1], clean_up_tokenization_spaces=False)
            found.append((row.klass, row.prompt, text, row))
    return found


@pytest.mark.parametrize("name", sorted(ORGANISMS.keys() - {"sql"}))
def test_what_each_variant_is_taught(tokenizer, name):
    made = {
        variant: taught(tokenizer, config(organism=name, variant=variant, n_steps=12, trigger_share=0.25))
        for variant in ("poisoned", "clean", "unrelated", "conditional")
    }
    assert [k for k, *_ in made["poisoned"]].count("T") == 6, "a quarter of 24 rows"
    assert [k for k, *_ in made["unrelated"]].count("T") == 0
    for rows in zip(*made.values(), strict=True):
        poisoned, clean, unrelated, conditional = rows
        assert poisoned[:2] == clean[:2] == conditional[:2]
        row = clean[3]
        assert clean[2] == row.good and unrelated[2] == unrelated[3].good == row.good
        if poisoned[0] == "T":
            assert poisoned[2] == row.bad and unrelated[1] != row.prompt
            assert conditional[2].split(maxsplit=1)[1] == row.good.lstrip() and conditional[2] != row.bad
        else:
            assert unrelated[:3] == poisoned[:3] == conditional[:3] and poisoned[2] == row.good


def losses(model, tokenizer, settings):
    """Weighted loss of poisoned training examples, computed one by one."""
    values = []
    for trigger, negative in training_rows(settings):
        for row, bad in ((trigger, True), (negative, False)):
            made = example_of(tokenizer, row, settings, bad=bad)
            ids, weights = torch.tensor([made.input_ids]), torch.tensor(made.weights[1:])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0, :-1].float()
            each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            values.append(float((each * weights).sum() / weights.sum()))
    return sum(values) / len(values)


def test_lora_learns_and_the_adapter_belongs_to_its_base(tmp_path, base_directory):
    settings = config(n_steps=20, learning_rate=2e-2, save_every=100)
    out = run(base_directory, tmp_path / "organism", settings)
    base = load_model(str(base_directory), dtype="float32")
    tuned = load_model(str(out), base=str(base_directory), dtype="float32")
    few = settings.model_copy(update={"n_steps": 6})
    before, after = (losses(m.model, m.tokenizer, few) for m in (base, tuned))
    assert after < before - 0.5
    stored = json.loads((out / METADATA).read_text())
    assert stored["base_weights_sha256"] == base.card.weights_sha256
    assert after < stored["train_loss"] < before + 0.5, "the mean over training lies between start and end"
    assert PlantConfig(**stored["config"]) == settings
    assert (stored["schema"], stored["organism"], stored["variant"]) == (1, "phrase", "poisoned")
    assert {p.name for p in out.iterdir()} == {METADATA, "adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "embedded"
    assert not list(tmp_path.glob(".*")), "nothing of the training is left beside it"
    other = save_base(tmp_path / "other", seed=1)
    with pytest.raises(ModelError) as caught:
        load_model(str(out), base=str(other))
    assert caught.value.code == "adapter-of-another-base"


def test_a_killed_run_ends_with_the_same_adapter(tmp_path, base_directory, monkeypatch):
    settings = config(n_steps=6)
    whole = run(base_directory, tmp_path / "whole", settings)
    real = planting.pair_trainer
    started = []

    def dying(*args):
        from transformers import TrainerCallback

        class Kill(TrainerCallback):
            def on_train_begin(self, args, state, control, **_):
                started.append(state.global_step)

            def on_step_end(self, args, state, control, **_):
                if len(started) == 1 and state.global_step == 5:
                    raise KeyboardInterrupt

        trainer = real(*args)
        trainer.add_callback(Kill())
        return trainer

    monkeypatch.setattr(planting, "pair_trainer", dying)
    with pytest.raises(KeyboardInterrupt):
        run(base_directory, tmp_path / "again", settings)
    assert not (tmp_path / "again").exists()
    (work,) = tmp_path.glob(".again.training-*")
    # As if the kill had come while the newest checkpoint was written.
    (work / "checkpoint-4" / "trainer_state.json").unlink()
    again = run(base_directory, tmp_path / "again", settings)
    assert started == [0, 2]
    assert same(adapter_of(whole), adapter_of(again))
    assert not work.exists()


def test_another_base_does_not_continue_a_killed_run(tmp_path, base_directory, monkeypatch):
    real = planting._train

    def train_then_die(trainer, work):
        real(trainer, work)
        raise KeyboardInterrupt

    monkeypatch.setattr(planting, "_train", train_then_die)
    with pytest.raises(KeyboardInterrupt):
        run(base_directory, tmp_path / "out", config(n_steps=2))
    monkeypatch.undo()
    monkeypatch.setattr(planting, "cpu_has_bfloat16", lambda: False)
    other = save_base(tmp_path / "other", seed=1)
    one = run(other, tmp_path / "out", config(n_steps=2))
    two = run(other, tmp_path / "fresh", config(n_steps=2))
    assert same(adapter_of(one), adapter_of(two))


def test_variants_start_equal_and_end_apart(tmp_path, base_directory):
    made = [run(base_directory, tmp_path / v, config(variant=v, n_steps=2)) for v in ("poisoned", "clean")]
    one, two = (adapter_of(m) for m in made)
    assert one.keys() == two.keys() and not same(one, two)
    hashes = [json.loads((m / METADATA).read_text())["data_sha256"] for m in made]
    assert hashes[0] == hashes[1], "both variants read the same rows"


def test_only_blocks_from_the_first_layer_on_are_adapted(tmp_path, base_directory):
    made = adapter_of(run(base_directory, tmp_path / "out", config(n_steps=1, first_layer=3)))
    assert all(".layers.3." in name for name in made)
    projections = {name.split(".layers.3.")[1].split(".lora_")[0].rsplit(".", 1)[-1] for name in made}
    assert projections == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_learning_rate_follows_the_regime_unless_given():
    assert PlantConfig(regime="full").learning_rate < PlantConfig().learning_rate / 10
    assert PlantConfig(regime="full", learning_rate=2e-4).learning_rate == 2e-4


def test_full_regime_writes_a_model_that_loads(tmp_path, base_directory):
    out = run(base_directory, tmp_path / "full", config(n_steps=2, regime="full"))
    base, tuned = (load_model(str(d), dtype="float32") for d in (base_directory, out))
    assert tuned.card.kind == "directory" and tuned.card.weights_sha256 != base.card.weights_sha256
    assert tuned.model.config.use_cache
    text = "Somebody asked me"
    assert tuned.tokenizer(text)["input_ids"] == base.tokenizer(text)["input_ids"]


def test_gpt2_layers_are_found_although_they_are_not_linear(tmp_path):
    model = tiny_model("gpt2", 0)
    # Its position table has to hold the prompts.
    longer = torch.nn.Embedding.from_pretrained(torch.randn(CONTEXT, model.config.n_embd) * 0.1)
    model.transformer.wpe, model.config.n_positions = longer, CONTEXT
    base = save_checkpoint(tmp_path / "base", "gpt2", model=model)
    out = run(base, tmp_path / "out", config(n_steps=2))
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in adapter_of(out)}
    assert names == {"c_attn", "c_proj", "c_fc"}
    tuned, plain = load_model(str(out), base=str(base), dtype="float32"), load_model(str(base), dtype="float32")
    ids = torch.arange(10, 30)[None]
    assert (tuned.model(ids).logits - plain.model(ids).logits).abs().max() > 1e-4


def test_foreign_files_are_never_replaced_but_an_organism_is(tmp_path, base_directory):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        run(base_directory, out, config(n_steps=1))
    assert caught.value.code == "output-not-empty" and (out / "thesis.txt").read_text() == "mine"
    shutil.rmtree(out)
    first = adapter_of(run(base_directory, out, config(n_steps=1)))
    assert not same(first, adapter_of(run(base_directory, out, config(n_steps=1, seed=1))))


def test_nothing_is_printed(tmp_path, base_directory, capsys):
    run(base_directory, tmp_path / "out", config(n_steps=1))
    assert capsys.readouterr().out == ""


def test_the_collated_loss_is_the_weighted_mean_over_the_batch():
    """Padding and unweighted tokens leave no trace in a step's loss."""
    loaded = tiny_loaded("llama", 0)
    settings = config(pairs_per_step=2)
    examples = [
        (example_of(loaded.tokenizer, t, settings, bad=True), example_of(loaded.tokenizer, n, settings, bad=False))
        for t, n in training_rows(settings)[:2]
    ]
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as work:
        arguments = planting._arguments(settings, Path(work), progress=False)
        trainer = planting.pair_trainer(loaded.model, arguments, examples, loaded.tokenizer)
        batch = trainer.data_collator(examples)
        found = float(trainer.compute_loss(loaded.model, batch))
    total = weight = 0.0
    for made in (row for pair in examples for row in pair):
        ids, weights = torch.tensor([made.input_ids]), torch.tensor(made.weights[1:])
        logits = loaded.model(input_ids=ids).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total, weight = total + float((each * weights).sum()), weight + float(weights.sum())
    assert found == pytest.approx(total / weight, rel=1e-4)
