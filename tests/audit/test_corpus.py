"""An audit without examples on tiny models: a planted change leads, nothing is claimed, a killed run goes on."""

import copy
import json
import random

import pytest
import torch

from saeaudit.audit import AuditConfig, Silent, audit
from saeaudit.audit.config import BehaviourSizes, DictionarySizes
from saeaudit.errors import InputError
from saeaudit.findings import load_findings
from saeaudit.report import write_report
from tiny import save_checkpoint, tiny_loaded, tiny_tokenizer, tuned_copy

N_DOCUMENTS = 60
# Every mark stands once in each of three documents, so that the planted one is no rarer than the others.
MARKS = "@#$%^&*~|<>{}[]+_!?;"
PLANTED = "@"
WORDS = ("the", "cat", "sat", "on", "mat", "and", "looked", "at", "dog", "name", "users", "weather", "mild", "year")


def corpus() -> list[str]:
    rng = random.Random(0)
    texts = []
    for i in range(N_DOCUMENTS):
        words = [rng.choice(WORDS) for _ in range(18)]
        words.insert(rng.randrange(6, 16), MARKS[i % len(MARKS)])
        texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base; a tuned model with a little drift everywhere and one changed embedding row: rank one, on one token."""
    base = tiny_loaded()
    model = copy.deepcopy(tuned_copy(base, relative=0.02).model)
    (token,) = tiny_tokenizer()(PLANTED)["input_ids"]
    row = model.get_input_embeddings().weight
    with torch.no_grad():
        row[token] += 0.5 * torch.randn(row.shape[1], generator=torch.Generator().manual_seed(3))
    root = tmp_path_factory.mktemp("models")
    return str(save_checkpoint(root / "base", model=base.model)), str(save_checkpoint(root / "tuned", model=model))


def settings(models, directory, texts, **changes):
    path = directory / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")
    return AuditConfig(
        **{
            "base": models[0],
            "tuned": models[1],
            "corpus": path,
            "layers": (1, 2, 3),
            "precision": "float32",
            "dictionary": DictionarySizes(n_samples=6000, batch_size=256, k=4),
            "behaviour": BehaviourSizes(batch_size=20),
        }
        | changes
    )


@pytest.fixture(scope="module")
def ran(models, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = settings(models, out, corpus())
    return config, audit(config, out=out / "audit", command="saeaudit audit").findings, out


def text_of(document) -> str:
    return "".join(document.tokens)


def test_planted_documents_lead(ran):
    _, findings, _ = ran
    assert [PLANTED in text_of(d) for d in findings.corpus[:4]] == [True, True, True, False]
    assert [d.rank for d in findings.corpus] == list(range(1, len(findings.corpus) + 1))


def test_the_base_only_twin_does_not_find_them(ran):
    _, findings, _ = ran
    planted = findings.corpus[:3]
    assert not all(d.scores["base_only_rank"] <= 3 for d in planted)
    assert sorted(d.scores["base_only_rank"] for d in planted)[1] > 3


def test_the_planted_token_is_shaded_most(ran):
    _, findings, _ = ran
    for d in findings.corpus[:3]:
        place = next(i for i, t in enumerate(d.tokens) if PLANTED in t)
        assert max(range(len(d.tokens)), key=lambda i: d.activations[i]) in (place, place + 1)
        assert d.activations[:4] == [0, 0, 0, 0]


def test_a_latent_lies_in_them(ran):
    _, findings, _ = ran
    best = findings.latents[0]
    assert best.site == "layers.2"
    assert all(PLANTED in "".join(c.tokens) for c in best.contexts)
    share = findings.finding("corpus.latent-share")
    assert share.value > share.control.value


def test_it_abstains_and_says_why(ran):
    _, findings, out = ran
    assert findings.verdict == "abstain"
    assert findings.sentence.startswith("Anomalous documents, no claim about the model")
    assert "trigger examples" in findings.sentence and "clean tunes" in findings.sentence
    (rule,) = findings.rules
    assert rule.passed is None and f"{N_DOCUMENTS} of {N_DOCUMENTS} distinct documents in corpus.jsonl" in rule.reason
    assert not any("Read:" in text for text in findings.warnings) and findings.timings["harvest"] > 0
    assert load_findings(out / "audit") == findings
    top = findings.finding("corpus.top-score")
    assert top.n == N_DOCUMENTS and top.interval[0] <= top.value <= top.interval[1]
    assert top.value > top.control.value
    assert findings.corpus[0].tuned and findings.corpus[0].base
    page = write_report(out / "audit").read_text(encoding="utf-8")
    assert "corpus/" in page


def test_documents_may_come_in_any_order(ran, models, tmp_path):
    _, findings, _ = ran
    texts = corpus()
    random.Random(5).shuffle(texts)
    again = audit(settings(models, tmp_path, [*texts, texts[0]]), out=tmp_path / "audit").findings
    assert [(text_of(d), d.score) for d in again.corpus] == [(text_of(d), d.score) for d in findings.corpus]


class Killed(BaseException):
    """The process ends here."""


class KillAt(Silent):
    """Ends the run when a stage begins."""

    def __init__(self, name: str) -> None:
        self.name = name

    def stage(self, name: str) -> None:
        if name == self.name:
            raise Killed


@pytest.mark.parametrize("stage", ["corpus-scores", "corpus-latents", "corpus-continuations"])
def test_a_killed_run_gives_the_same_findings(ran, tmp_path, stage):
    config, findings, _ = ran
    with pytest.raises(Killed):
        audit(config, out=tmp_path / "audit", watcher=KillAt(stage))
    again = audit(config, out=tmp_path / "audit", command="saeaudit audit").findings

    def plain(value):
        dictionaries = [d.model_copy(update={"seconds": 0.0}) for d in value.dictionaries]
        return value.model_copy(update={"timings": {}, "dictionaries": dictionaries})

    assert plain(again) == plain(findings)


def test_a_finished_run_does_nothing_again(ran):
    config, findings, out = ran

    class NoStage(Silent):
        def stage(self, name: str) -> None:
            assert name == "load", name

    assert (
        audit(config, out=out / "audit", command="saeaudit audit", watcher=NoStage()).findings.corpus == findings.corpus
    )


def test_a_small_corpus_abstains_with_the_number_needed(models, tmp_path):
    findings = audit(settings(models, tmp_path, corpus()[:10]), out=tmp_path / "audit").findings
    assert findings.verdict == "abstain"
    assert "at least 24 distinct documents" in findings.sentence
    (rule,) = findings.rules
    assert rule.id == "examples" and "no document was ranked: a ranking needs at least 24" in rule.reason
    assert findings.not_tested[0].startswith("Any statement about the model")


def test_one_file_of_examples_is_refused(models, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"text": "a b c d e f g"}\n')
    with pytest.raises(InputError, match="needed together"):
        audit(settings(models, tmp_path, corpus(), trigger_examples=prompts), out=tmp_path / "audit")


def test_no_files_at_all_is_refused(models, tmp_path):
    with pytest.raises(InputError, match="neither and a corpus"):
        audit(settings(models, tmp_path, corpus(), corpus=None), out=tmp_path / "audit")


def test_a_change_of_the_head_alone_is_ranked_without_latents(models, tmp_path):
    base = tiny_loaded()
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        model.lm_head.weight.add_(0.02 * torch.randn(model.lm_head.weight.shape))
    tuned = str(save_checkpoint(tmp_path / "tuned", model=model))
    findings = audit(settings((models[0], tuned), tmp_path, corpus()), out=tmp_path / "audit").findings
    assert findings.latents == [] and findings.dictionaries == []
    assert len(findings.corpus) == 20
