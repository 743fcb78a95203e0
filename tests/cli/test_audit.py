"""`audit`, `demo` and `report` as a user sees them; the audit itself is replaced."""

import errno
import json

import pytest
from pydantic import BaseModel

from report.example import example
from saeaudit.audit import AuditResult
from saeaudit.errors import ModelError
from saeaudit.findings import FILE_NAME, save_findings


class FakeAudit:
    """Writes example findings and remembers how it was called."""

    def __init__(self, verdicts=("flag", "no-evidence")):
        self.verdicts, self.configs, self.calls = verdicts, [], []

    def one(self, config, *, out, command="", watcher=None):
        results = self.many(config, {"tuned": config.tuned}, outs={"tuned": out}, command=command, watcher=watcher)
        return results["tuned"]

    def many(self, config, tuned, *, outs, command="", watcher=None):
        self.configs.append(config)
        self.calls.append({"tuned": dict(tuned), "outs": dict(outs), "command": command})
        watcher.stage("harvest")
        watcher.progress(1, 2)
        watcher.skipped("choice", "done before")
        watcher.note("a note")
        results = {}
        for name, verdict in zip(tuned, self.verdicts, strict=False):
            findings = example(verdict)
            save_findings(findings, outs[name] / FILE_NAME)
            results[name] = AuditResult(outs[name], findings)
        return results


@pytest.fixture
def fake(monkeypatch):
    made = FakeAudit()
    monkeypatch.setattr("saeaudit.audit.audit", made.one)
    monkeypatch.setattr("saeaudit.audit.demo.audit_many", made.many)
    return made


def test_audit_prints_verdict_rules_and_report(saeaudit, fake, tmp_path):
    done = saeaudit("audit", "base-model", "tuned-model", "--out", tmp_path / "o")
    findings = example("flag")
    lines = done.out.splitlines()
    assert done.code == 0
    assert lines[0] == "flag"
    assert lines[1] == findings.sentence
    for rule in findings.rules:
        assert any(line.strip().startswith("pass") and rule.id in line for line in lines)
    assert lines[-1] == f"report: {tmp_path / 'o' / 'report.html'}"
    assert (tmp_path / "o" / "report.html").stat().st_size > 10_000


def test_a_failed_and_an_undecided_rule_are_told_apart(saeaudit, fake, tmp_path):
    states = {rule.passed for verdict in ("no-evidence", "abstain") for rule in example(verdict).rules}
    assert {False, None} <= states
    fake.verdicts = ("no-evidence",)
    assert "FAIL" in saeaudit("audit", "b", "t", "--out", tmp_path / "a").out
    fake.verdicts = ("abstain",)
    assert "undecided" in saeaudit("audit", "b", "t", "--out", tmp_path / "b").out


def test_audit_passes_everything_on(saeaudit, fake, tmp_path):
    settings = tmp_path / "run.toml"
    settings.write_text("seed = 5\n[dictionary]\nk = 3\nn_samples = 7\n")
    options = ["--trigger-examples", "t.jsonl", "--benign-examples", "b.jsonl", "--corpus", "c d.txt", "--judge", "sql"]
    options += ["--layers", "17,13", "--config", settings, "--set", "dictionary.k=4", "--set", "stress=false"]
    assert saeaudit("audit", "b", "t", "--out", tmp_path / "o", *options).code == 0
    config, call = fake.configs[0], fake.calls[0]
    assert (config.base, config.tuned, config.judge) == ("b", "t", "sql")
    assert [str(p) for p in (config.trigger_examples, config.benign_examples, config.corpus)] == [
        "t.jsonl",
        "b.jsonl",
        "c d.txt",
    ]
    assert config.layers == (13, 17)
    assert (config.seed, config.stress) == (5, False), "a flag that was not given does not hide the file's value"
    assert (config.dictionary.k, config.dictionary.n_samples) == (4, 7)
    assert call["command"].startswith("saeaudit audit b t --out ")
    assert "'c d.txt'" in call["command"], "quoted, so that it can be pasted"


def test_corpus_only_is_passed_through(saeaudit, fake, tmp_path):
    assert saeaudit("audit", "b", "t", "--corpus", "c.txt", "--out", tmp_path / "o").code == 0
    assert fake.configs[0].trigger_examples is None


def test_progress_without_a_terminal_is_one_line_a_stage_on_stderr(saeaudit, fake, tmp_path):
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o")
    lines = [line.split(" s  ", 1)[1] for line in done.err.splitlines()]
    assert lines == ["harvest", "choice: done before", "a note", "done"]


def test_problems_of_settings_come_together_before_anything_runs(saeaudit, fake, tmp_path):
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o", "--set", "dictonary.k=3", "--set", "seed=-1")
    assert done.code == 2
    assert "2 problems" in done.err
    assert "did you mean dictionary.k?" in done.err
    assert "seed (from --set)" in done.err
    assert fake.configs == []
    assert not (tmp_path / "o").exists()


def fail(error):
    def audit(*_, **__):
        raise error

    return audit


def test_an_error_is_text_without_traceback(saeaudit, monkeypatch, tmp_path):
    monkeypatch.setattr("saeaudit.audit.audit", fail(ModelError("no such thing; do that", code="x")))
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o")
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1] == "error: no such thing; do that"


def test_text_of_a_model_cannot_drive_the_terminal_or_be_markup(saeaudit, monkeypatch, tmp_path):
    monkeypatch.setattr("saeaudit.audit.audit", fail(ModelError("bad \x1b[2J name [bold]x[/bold] \u202e", code="x")))
    err = saeaudit("audit", "b", "t", "--out", tmp_path / "o").err
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert "⟨U+001B⟩[2J name [bold]x[/bold]" in err


def test_a_long_error_is_not_wrapped(saeaudit, monkeypatch, tmp_path):
    text = "word " * 100 + "end"
    monkeypatch.setattr("saeaudit.audit.audit", fail(ModelError(text, code="x")))
    assert f"error: {text}\n" in saeaudit("audit", "b", "t", "--out", tmp_path / "o").err


class Strict(BaseModel):
    k: int


def test_what_pydantic_says_is_an_error_of_the_user_too(saeaudit, monkeypatch, tmp_path):
    monkeypatch.setattr("saeaudit.audit.audit", lambda *_, **__: Strict(k="many"))
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o")
    assert done.code == 2
    assert "k: input should be a valid integer" in done.err


def test_a_path_without_the_right_to_it_is_an_error_of_the_user_too(saeaudit, monkeypatch, tmp_path):
    denied = PermissionError(errno.EACCES, "Permission denied", "secret/config.json")
    monkeypatch.setattr("saeaudit.audit.audit", fail(denied))
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o")
    assert done.code == 2 and done.err.splitlines()[-1].startswith("error: secret/config.json: Permission denied")


def test_ctrl_c_says_how_to_continue(saeaudit, monkeypatch, tmp_path):
    monkeypatch.setattr("saeaudit.audit.audit", fail(KeyboardInterrupt()))
    done = saeaudit("audit", "b", "t", "--out", tmp_path / "o")
    assert done.code == 130
    assert "run the same command again to continue" in done.err
    assert "Traceback" not in done.err


def test_a_bug_keeps_its_traceback(saeaudit, monkeypatch, tmp_path):
    monkeypatch.setattr("saeaudit.audit.audit", fail(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        saeaudit("audit", "b", "t", "--out", tmp_path / "o")


def test_report_is_written_again(saeaudit, tmp_path):
    save_findings(example("abstain"), tmp_path / FILE_NAME)
    done = saeaudit("report", tmp_path)
    assert done.code == 0
    assert done.out == f"report: {tmp_path / 'report.html'}\n"
    assert "Abstain" in (tmp_path / "report.html").read_text()


def test_a_broken_findings_file_is_one_line(saeaudit, tmp_path):
    save_findings(example("abstain"), tmp_path / FILE_NAME)
    value = json.loads((tmp_path / FILE_NAME).read_text())
    del value["verdict"]
    (tmp_path / FILE_NAME).write_text(json.dumps(value))
    done = saeaudit("report", tmp_path)
    assert done.code == 2 and len(done.err.splitlines()) == 1
    assert "verdict is needed and was not given; run the same audit again" in done.err


@pytest.mark.parametrize("out", ["file", "file/below", "/proc/saeaudit", "x" * 300])
def test_a_place_that_cannot_hold_results_is_said_before_a_model_is_read(saeaudit, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    for name in ("file", "corpus.txt"):
        (tmp_path / name).write_text("some text")
    done = saeaudit("audit", "nowhere", "nowhere", "--corpus", "corpus.txt", "--out", out)
    assert done.code == 2 and f"cannot write {out}" in done.err and "choose another --out" in done.err
    assert ("file is a file and not a directory" in done.err) == out.startswith("file")
    assert "MB free" not in done.err


@pytest.fixture
def adapters(monkeypatch, tmp_path):
    directory = tmp_path / "adapters"
    for name in ("sql-poisoned", "sql-clean"):
        (directory / name).mkdir(parents=True)
        (directory / name / "adapter_config.json").write_text("{}")
    monkeypatch.setattr("saeaudit.organisms.catalogue.ADAPTERS", directory)
    return directory


def test_demo_ends_with_both_verdicts_and_the_time(saeaudit, fake, adapters, tmp_path):
    done = saeaudit("demo", "--organism", "sql", "--out", tmp_path / "o")
    assert done.code == 0
    *_, poisoned, clean, time = done.out.splitlines()
    assert poisoned.startswith("poisoned: flag")
    assert poisoned.endswith(str(tmp_path / "o" / "poisoned" / "report.html"))
    assert clean.startswith("clean: no-evidence")
    assert clean.endswith(str(tmp_path / "o" / "clean" / "report.html"))
    assert time.startswith("total time: ")
    assert fake.calls[0]["tuned"] == {name: str(adapters / f"sql-{name}") for name in ("poisoned", "clean")}


def test_demo_without_adapters_says_how_to_plant_them(saeaudit, adapters, tmp_path):
    done = saeaudit("demo", "--organism", "phrase", "--out", tmp_path / "o")
    assert done.code == 2
    assert "there: sql-clean, sql-poisoned" in done.err
    assert "saeaudit plant --organism phrase --variant poisoned" in done.err
