"""Stages run once for the same inputs, and the output directory belongs to one audit."""

import json

import pytest

from saeaudit.artifacts import directory_lock
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.output import RUN_FILE, claim, require_own
from saeaudit.audit.stages import Record, Silent, Stages
from saeaudit.errors import ArtifactError


class Count(Record):
    number: int


class Log(Silent):
    def __init__(self):
        self.seen = []

    def stage(self, name):
        self.seen.append(("stage", name))

    def skipped(self, name, reason):
        self.seen.append(("skipped", name))

    def note(self, text):
        self.seen.append(("note", text))


@pytest.fixture
def ask(tmp_path):
    """`ask(inputs)` runs the stage "one"; `.made` counts computations, `.log.seen` holds what a watcher saw."""

    def run(inputs, label=""):
        run.log = Log()

        def compute():
            run.made += 1
            return Count(number=run.made)

        run.stages = Stages(tmp_path, run.log, label=label)
        return run.stages.run("one", inputs, Count, compute).number

    run.made, run.path = 0, tmp_path / "stages" / "one.json"
    return run


def test_equal_inputs_skip_and_others_run(ask):
    assert ask([1, {"a": (2, 3)}]) == 1
    assert ask.log.seen == [("stage", "one")]
    assert ask([1, {"a": [2, 3]}]) == 1, "a tuple and a list are the same input"
    assert ask.log.seen == [("skipped", "one")] and ask.stages.seconds["one"] >= 0
    assert ask([1, {"a": (2, 4)}]) == 2
    assert ask([1, {"a": (2, 3)}]) == 3, "one record a stage: the older one was replaced"


def test_a_label_names_the_model_and_changes_nothing_else(ask):
    ask("x")
    assert ask("x", label="poisoned: ") == 1
    assert ask.log.seen == [("skipped", "poisoned: one")]


@pytest.mark.parametrize(
    "change", [{"record": {"number": "many"}}, {"record": {"count": 1}}, {"record": None}, {"seconds": None}]
)
def test_a_record_of_another_version_is_made_again(ask, change):
    ask("x")
    ask.path.write_text(json.dumps(json.loads(ask.path.read_text()) | change))
    assert ask("x") == 2
    assert [kind for kind, _ in ask.log.seen] == ["note", "stage"]


def test_missing_parts_do_not_crash(ask):
    ask("x")
    ask.path.write_text('{"schema": 1}')
    assert ask("x") == 2


def test_broken_and_foreign_records_say_what_to_do(ask):
    ask("x")
    ask.path.write_text("{")
    with pytest.raises(ArtifactError, match="delete it") as caught:
        ask("x")
    assert caught.value.code == "artifact-broken"
    ask.path.write_text('{"schema": 99}')
    with pytest.raises(ArtifactError) as caught:
        ask("x")
    assert caught.value.code == "schema-mismatch"


def test_a_stage_that_fails_leaves_nothing(ask, tmp_path):
    stages = Stages(tmp_path, Silent())
    with pytest.raises(ZeroDivisionError):
        stages.run("two", 1, Count, lambda: Count(number=1 // 0))
    assert not (tmp_path / "stages" / "two.json").exists() and "two" not in stages.seconds


def config(**changes):
    return AuditConfig.model_validate({"tuned": "a", "layers": (1, 2)} | changes)


def test_a_directory_is_claimed_once(tmp_path):
    out = tmp_path / "new" / "out"
    assert claim(out, config()) == config()
    before = (out / RUN_FILE).read_bytes()
    (out / "findings.json").write_text("{}")
    claim(out, config())
    assert (out / RUN_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("change", "name"), [({"seed": 3}, "seed"), ({"tuned": "b"}, "tuned"), ({"dictionary": {"k": 3}}, "dictionary.k")]
)
def test_another_audit_is_refused_and_the_setting_named(tmp_path, change, name):
    out = tmp_path / "out"
    claim(out, config())
    before = (out / RUN_FILE).read_bytes()
    require_own(out, config(**change))
    assert (out / RUN_FILE).read_bytes() == before, "only who holds the lock may write"
    claim(out, config(**change))
    assert (out / RUN_FILE).read_bytes() != before, "nothing was done there but settings were left"
    (out / "stages").mkdir()
    for check in (claim, require_own):
        with pytest.raises(ArtifactError, match=rf"another audit: {name} differ") as caught:
            check(out, config())
        assert caught.value.code == "output-of-another-run"


def test_foreign_files_are_refused_and_remains_of_a_kill_are_not(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{RUN_FILE}.tmp-0123").write_text("{")
    with directory_lock(out):
        claim(out, config())
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    with pytest.raises(ArtifactError) as caught:
        claim(other, config())
    assert caught.value.code == "output-not-empty" and not (other / RUN_FILE).exists()
