import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from saeaudit.errors import ArtifactError
from saeaudit.findings import (
    Context,
    Control,
    Finding,
    Findings,
    RankedDocument,
    RecoveryArm,
    RecoveryCurve,
    Reproduce,
    load_findings,
    save_findings,
)

FINDING = {
    "id": "detector.tpr",
    "claim": "The detector finds triggers.",
    "value": 0.9,
    "unit": "share",
    "n": 40,
    "interval": [0.8, 0.96],
    "control": {"name": "random dictionary", "value": 0.1},
}


def findings(*items):
    return Findings(
        title="A pair",
        pair={"base": "b"},
        verdict="no-evidence",
        sentence="Nothing was found.",
        rules=[],
        findings=[Finding.model_validate(item) for item in items],
        not_tested=[],
        reproduce=Reproduce(command="saeaudit audit", seed=0, config={}, versions={}),
        timings={"total": 1.0},
    )


@pytest.mark.parametrize("missing", ["n", "interval", "control", "unit", "claim", "value"])
def test_a_number_without_its_evidence_is_no_finding(missing):
    with pytest.raises(ValidationError, match=missing):
        Finding.model_validate({k: v for k, v in FINDING.items() if k != missing})


@pytest.mark.parametrize(
    "change",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"interval": [0.96, 0.8]},
        {"interval": [0.1, float("nan")]},
        {"n": 0},
        {"control": {"name": "", "value": 0.1}},
        {"control": {"name": "x", "value": None}},
        {"id": "Has Spaces"},
        {"unknown": 1},
    ],
)
def test_findings_that_mean_nothing_are_refused(change):
    Finding.model_validate(FINDING)
    with pytest.raises(ValidationError):
        Finding.model_validate(FINDING | change)


def test_findings_come_back_from_disk(tmp_path):
    written = findings(FINDING)
    save_findings(written, tmp_path / "findings.json")
    assert json.loads((tmp_path / "findings.json").read_text())["schema"] == 1
    assert load_findings(tmp_path) == load_findings(tmp_path / "findings.json") == written
    assert written.finding("detector.tpr").control == Control(name="random dictionary", value=0.1)
    with pytest.raises(KeyError):
        written.finding("other")


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (
            lambda v: v["findings"][0].pop("control"),
            "findings-invalid",
            r"findings\.0\.control is needed.*run the same",
        ),
        (lambda v: v.update(schema=2), "schema-mismatch", "schema 2"),
        (lambda v: v.update(extra=1), "findings-invalid", "there is no field 'extra'"),
        (
            lambda v: v["findings"].append(v["findings"][0]),
            "findings-invalid",
            r"several findings are called detector\.",
        ),
        (lambda v: v.update(title=3, extra=1), "findings-invalid", r"title: .*found 3 \(and 1 more problem\)"),
    ],
)
def test_broken_files_are_named_in_one_line(tmp_path, change, code, says):
    save_findings(findings(FINDING), tmp_path / "findings.json")
    value = json.loads((tmp_path / "findings.json").read_text())
    change(value)
    (tmp_path / "findings.json").write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=rf"findings\.json.*{says}") as caught:
        load_findings(tmp_path)
    assert caught.value.code == code and "\n" not in str(caught.value) and "pydantic" not in str(caught.value)


def test_records_are_frozen():
    with pytest.raises(ValidationError):
        findings(FINDING).title = "other"  # pyright: ignore


def test_parallel_lists_have_one_entry_each():
    arm = RecoveryArm(name="search", role="attack", rate=[0, 0.5], interval=[(0, 0.1), (0.3, 0.7)], n=4)
    curve = {"site": "layers.1", "injection": "x", "eps50": None, "constraint": "c", "note": "n"}
    assert RecoveryCurve(budgets_relative=[0, 0.1], arms=[arm], **curve).arms == [arm]
    shaded = {"doc_id": "d", "tokens": ["a", "b"], "activations": [0.0]}
    for wrong in (
        lambda: RecoveryCurve(budgets_relative=[0, 0.1, 0.2], arms=[arm], **curve),
        lambda: RecoveryArm(name="search", role="attack", rate=[0, 0.5], interval=[(0, 0.1)], n=4),
        lambda: Context(role="test", **shaded),
        lambda: RankedDocument(rank=1, score=0, scores={}, **shaded),
    ):
        with pytest.raises(ValidationError, match=r"has (2|3) entries"):
            wrong()


def test_reading_findings_does_not_import_torch():
    code = "import sys, saeaudit.findings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
