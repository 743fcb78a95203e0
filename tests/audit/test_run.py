"""The whole audit on a tiny planted pair: it finds the trigger, its file loads, a second call adds nothing."""

import json
import shutil

import pytest

from saeaudit.audit import Silent, audit
from saeaudit.audit.run import audit_many
from saeaudit.errors import ArtifactError, ConfigError, EvidenceError, InputError, SaeAuditError
from saeaudit.findings import FILE_NAME, load_findings
from tiny import save_adapter, tiny_model

STAGES = [
    "equality",
    "sites",
    "dictionary-layers.1-diff",
    "choice",
    "detection",
    "exhibits",
    "answers-base-test",
    "answers-base-selection",
    "answers-tuned-test",
    "answers-tuned-selection",
    "behaviour",
    "ablation",
    "proof",
]


class Log(Silent):
    def __init__(self):
        self.begun, self.skips = [], []

    def stage(self, name):
        self.begun.append(name)

    def skipped(self, name, reason):
        self.skips.append(name)


@pytest.fixture(scope="module")
def done(small_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit") / "out"
    log = Log()
    return audit(small_config(), out=out, command="saeaudit audit ...", watcher=log), log


def test_the_planted_trigger_is_found_and_held(done):
    findings = done[0].findings
    assert all(rule.passed for rule in findings.rules) and findings.verdict == "flag"
    values = {f.id: f.value for f in findings.findings}
    assert values["detection.tpr"] > 0.9 and values["behaviour.contrast-change"] > 0.2
    assert values["ablation.removed-share"] > 0.5
    assert all(latent.ablated for latent in findings.latents)
    assert findings.dictionaries[0].site == "layers.1"


def test_what_is_written_is_what_was_returned(done):
    result, log = done
    assert load_findings(result.directory / FILE_NAME) == result.findings
    assert [s for s in log.begun if s in STAGES] == STAGES and not log.skips
    assert not (result.directory / "activations").exists()
    reproduce = result.findings.reproduce
    assert reproduce.command == "saeaudit audit ..." and {"trigger_examples", "benign_examples", "corpus"} <= set(
        reproduce.inputs
    )


def test_tuned_models_share_what_the_base_does(done, small_config, tmp_path):
    config, log = small_config(), Log()
    outs = {name: tmp_path / name for name in ("one", "two")}
    both = audit_many(config, dict.fromkeys(outs, config.tuned), outs=outs, command="saeaudit audit ...", watcher=log)
    for shared in ("harvest", "answers-base-test", "answers-base-selection"):
        assert log.begun.count(shared) == 1
    assert {f"{name}: answers-tuned-test" for name in outs} <= set(log.begun)
    one, two = (without_times(both[name].findings) for name in outs)
    assert one == two == without_times(done[0].findings)


def without_times(findings):
    value = findings.model_dump(mode="json")
    value.pop("timings")
    for row in value["dictionaries"]:
        row.pop("seconds")
    return value


def test_the_same_command_again_does_nothing_and_says_the_same(done, small_config):
    log = Log()
    again = audit(small_config(), out=done[0].directory, command="saeaudit audit ...", watcher=log)
    assert log.skips == STAGES and log.begun == ["load"]
    assert without_times(again.findings) == without_times(done[0].findings)
    first, second = done[0].findings.timings, again.findings.timings
    assert set(first) == set(second) == {"load", "harvest", *STAGES} and min(first.values()) > 0
    assert {k: v for k, v in first.items() if k != "load"} == {k: v for k, v in second.items() if k != "load"}


def test_an_ablation_that_cannot_be_judged_leaves_the_other_rules_decided(done, small_config, tmp_path, monkeypatch):
    """The verdict is then that of the written rules: a missing cause alone neither flags nor clears."""

    def fail(*_):
        raise EvidenceError("the hold left one class of answers", code="single-class")

    monkeypatch.setattr("saeaudit.audit.run.ablation_stage", fail)
    out = tmp_path / "copy"
    shutil.copytree(done[0].directory, out)
    found = audit(small_config(), out=out).findings
    assert found.verdict == "abstain" and [rule.passed for rule in found.rules] == [True, True, None]
    assert found.rules[2].reason == "the hold left one class of answers" and found.rules[2].reason in found.sentence
    kept = {f.id for f in done[0].findings.findings if not f.id.startswith(("ablation", "recovery"))}
    assert {f.id for f in found.findings} == kept and found.generations and found.latents
    assert "Control and recovery: the hold left one class of answers." in found.not_tested


def test_what_killed_runs_left_is_cleared_away(done, small_config, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(done[0].directory, out)
    before = sorted(p.relative_to(out) for p in out.rglob("*"))
    (out / "stages" / ".proof.json.tmp-0123456789ab").write_text("{")
    (out / "dictionaries" / ".layers.1-diff.tmp-0123456789ab").mkdir()
    (out / "dictionaries" / ".layers.1-diff.tmp-0123456789ab" / "config.json").write_text("{")
    (out / f".{FILE_NAME}.tmp-0123456789ab").write_text("{")
    audit(small_config(), out=out)
    assert sorted(p.relative_to(out) for p in out.rglob("*")) == before


def test_a_lost_stage_is_made_again_with_the_same_result(done, small_config, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(done[0].directory, out)
    (out / "stages" / "detection.json").unlink()
    log = Log()
    again = audit(small_config(), out=out, command="saeaudit audit ...", watcher=log)
    assert [s for s in log.begun if s in STAGES] == ["detection"]
    assert without_times(again.findings) == without_times(done[0].findings)


def test_another_audit_does_not_write_there(done, small_config):
    before = (done[0].directory / FILE_NAME).read_bytes()
    with pytest.raises(ArtifactError) as caught:
        audit(small_config(seed=1), out=done[0].directory)
    assert caught.value.code == "output-of-another-run" and "seed" in str(caught.value)
    assert (done[0].directory / FILE_NAME).read_bytes() == before


def test_too_few_prompts_abstain_and_name_the_number_and_warn_of_the_base(small_config, places, tmp_path):
    few = tmp_path / "few.jsonl"
    lines = places.benign.read_text().splitlines()
    few.write_text("\n".join(lines[:40]) + "\n")
    adapter = save_adapter(tmp_path / "adapter", tiny_model(), base_name="famous/other-model")
    found = audit(small_config(benign_examples=few, tuned=str(adapter)), out=tmp_path / "out").findings
    assert [w for w in found.warnings if "'famous/other-model' as its base" in w] and set(found.timings) == {"load"}
    assert found.verdict == "abstain" and json.loads((tmp_path / "out" / FILE_NAME).read_text())["verdict"] == "abstain"
    assert "19" in " ".join(r.reason for r in found.rules)


def test_more_active_latents_than_there_are_is_said_before_the_harvest(small_config, tmp_path):
    sizes = small_config().dictionary.model_dump() | {"k": 129}
    with pytest.raises(ConfigError, match=r"k = 129 .* gives a dictionary of 128 latents") as caught:
        audit(small_config(dictionary=sizes), out=tmp_path / "o")
    assert caught.value.code == "out-of-range" and not (tmp_path / "o" / "activations").exists()


def test_a_mistake_does_not_keep_the_directory(small_config, places, tmp_path):
    with pytest.raises(SaeAuditError):
        audit(small_config(tuned=str(tmp_path / "nope")), out=tmp_path / "o")
    assert audit(small_config(tuned=str(places.base)), out=tmp_path / "o").findings.verdict == "no-evidence"


@pytest.mark.parametrize("option", ["trigger_examples", "benign_examples"])
def test_one_file_of_examples_alone_is_refused_before_a_model_is_read(option, small_config, tmp_path):
    config = small_config(base="nowhere", **{option: None})
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} was not given"):
        audit(config, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()
