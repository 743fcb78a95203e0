"""Two models that compute the same are told so before any work; a difference in a single text is not lost."""

import copy
import random
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from saeaudit.audit import Silent, audit
from saeaudit.audit.stages import Stages
from saeaudit.audit.workbench import open_workbench
from saeaudit.errors import NumericsError
from saeaudit.findings import load_findings
from saeaudit.models import load_model
from saeaudit.report import write_report
from tiny import N_LAYERS, save_checkpoint

NEVER_USED = 2  # <pad>
CORPUS_MODE = {"trigger_examples": None, "benign_examples": None}


class Log(Silent):
    def __init__(self):
        self.begun = []

    def stage(self, name):
        self.begun.append(name)


class Killed(BaseException):
    """The process ends here."""


class UntilHarvest(Silent):
    """Ends the run when the harvest begins: the models were found to differ."""

    def stage(self, name):
        if name == "harvest":
            raise Killed


@pytest.fixture(scope="module")
def variants(places, tmp_path_factory):
    """`variants(name, change)`: a copy of the base on disk, after `change(model)`."""
    root = tmp_path_factory.mktemp("variants")
    base = load_model(str(places.base), dtype="float32")

    def make(name, change=lambda model: None):
        model = copy.deepcopy(base.model)
        with torch.no_grad():
            change(model)
        return str(save_checkpoint(root / name, tokenizer=base.tokenizer, model=model))

    def adapter(name, *, b):
        wrapped = get_peft_model(copy.deepcopy(base.model), LoraConfig(r=2, target_modules=["down_proj"]))
        for parameter_name, parameter in wrapped.named_parameters():
            if "lora_B" in parameter_name:
                torch.nn.init.constant_(parameter, b)
        wrapped.save_pretrained(root / name)
        return str(root / name)

    return SimpleNamespace(make=make, adapter=adapter, tokenizer=base.tokenizer)


@pytest.mark.parametrize("case", ["the base itself", "a copy", "an adapter without effect"])
def test_equal_models_are_a_finding_without_a_harvest(case, variants, places, small_config, tmp_path):
    tuned = {
        "the base itself": lambda: str(places.base),
        "a copy": lambda: variants.make("copy"),
        "an adapter without effect": lambda: variants.adapter("zero", b=0.0),
    }[case]()
    log = Log()
    found = audit(small_config(tuned=tuned), out=tmp_path / "out", watcher=log).findings
    assert log.begun == ["load", "equality"]
    assert found.verdict == "no-evidence" and [r.passed for r in found.rules] == [False]
    difference = found.finding("pair.largest-difference")
    assert (difference.value, difference.n) == (0, 8) and difference.control.value > 0
    assert "same outputs on 8 probe documents at every site (max |difference| = 0)" in found.sentence
    assert "their weights are equal" in found.sentence
    assert load_findings(tmp_path / "out") == found
    assert "largest |value| of the base there" in write_report(tmp_path / "out").read_text(encoding="utf-8")


def test_an_adapter_with_effect_is_audited(variants, small_config, tmp_path):
    with pytest.raises(Killed):
        audit(small_config(tuned=variants.adapter("one", b=0.1)), out=tmp_path, watcher=UntilHarvest())


def test_without_examples_nothing_is_claimed(places, small_config, tmp_path):
    log = Log()
    found = audit(small_config(tuned=str(places.base), **CORPUS_MODE), out=tmp_path / "out", watcher=log).findings
    assert log.begun == ["load", "equality"]
    assert found.verdict == "abstain" and [r.passed for r in found.rules] == [None]
    assert "same outputs on 8 probe documents" in found.sentence and found.corpus == []


def test_equal_outputs_of_other_weights_are_shown_on_every_document(variants, small_config, tmp_path):
    def change(model):
        model.get_input_embeddings().weight[NEVER_USED] += 1

    config = small_config(tuned=variants.make("unused", change), **CORPUS_MODE)
    found = audit(config, out=tmp_path / "out").findings
    assert found.finding("pair.largest-difference").n == config.dictionary.corpus_documents
    assert "weights are equal" not in found.sentence
    assert any("the weights differ" in text for text in found.not_tested)


def test_a_difference_in_one_document_is_seen(variants, small_config, tmp_path):
    """One embedding row of one token, which one document holds: no sample of documents would do."""
    (token,) = variants.tokenizer("@")["input_ids"]
    rng = random.Random(0)
    texts = [" ".join(rng.choice(("the", "cat", "sat", "dog", "year")) for _ in range(9)) for _ in range(60)]
    texts[7] += " @ the"
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))

    def change(model):
        model.get_input_embeddings().weight[token] += 1

    config = small_config(
        tuned=variants.make("rare", change), corpus=tmp_path / "corpus.txt", dictionary={"corpus_documents": 60}
    )
    with pytest.raises(Killed):
        audit(config.model_copy(update=CORPUS_MODE), out=tmp_path / "out", watcher=UntilHarvest())


def test_equal_weights_under_another_config_are_not_equal_models(variants, small_config, tmp_path):
    def change(model):
        model.config.rms_norm_eps = 0.5

    with pytest.raises(Killed):
        audit(small_config(tuned=variants.make("eps", change)), out=tmp_path / "out", watcher=UntilHarvest())


def test_mixed_precision_does_not_make_weights_equal(variants, small_config, tmp_path):
    """A change that bf16 rounds away, above the site at which precision is probed."""

    def change(model):
        model.model.layers[N_LAYERS - 1].mlp.down_proj.weight.mul_(1 + 2**-20)

    config = small_config(tuned=variants.make("nudged", change), precision="mixed", layers=(0,))
    bench = open_workbench(config, {"tuned": config.tuned, "same": config.base}, tmp_path, Silent())
    assert bench.precision == "mixed" and bench.equal_weights == {"same"}


def test_a_finished_comparison_is_not_repeated(places, small_config, tmp_path, monkeypatch):
    config = small_config(tuned=str(places.base))
    first = audit(config, out=tmp_path / "out").findings
    monkeypatch.setattr(Silent, "stage", lambda self, name: pytest.fail(name) if name != "load" else None)
    again = audit(config, out=tmp_path / "out").findings
    assert again.model_copy(update={"timings": first.timings}) == first
    assert (Stages(tmp_path / "out", Silent())._directory / "equality.json").is_file()


@pytest.mark.parametrize("where", ["block", "head"])
def test_numbers_that_overflow_above_the_harvested_blocks_are_an_error(where, variants, small_config, tmp_path):
    def overflow(model):
        weight = model.model.layers[-1].mlp.down_proj.weight if where == "block" else model.lm_head.weight
        weight.mul_(3e38)

    config = small_config(tuned=variants.make(f"overflow-{where}", overflow), layers=(0,))
    with pytest.raises(NumericsError, match=r"of the tuned model .* in document 'trigger/.*' at token \d+") as caught:
        audit(config, out=tmp_path / "o")
    assert caught.value.code == "non-finite"
