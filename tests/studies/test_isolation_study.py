"""The whole isolation study, small: models, cells with their controls, going on after a stop."""

import json
import shutil

import pytest

from saeaudit.audit.config import BehaviourSizes, DetectionSizes, DictionarySizes
from saeaudit.errors import ArtifactError
from saeaudit.isolation_results import load_results
from saeaudit.organisms.small_model import SmallModelConfig
from saeaudit.organisms.verify import Arm
from saeaudit.studies.isolation.config import Audited, IsolationConfig
from saeaudit.studies.isolation.output import require_own
from saeaudit.studies.isolation.paper.config import PaperConfig, PaperStudy
from saeaudit.studies.isolation.run import run_study
from saeaudit.studies.isolation.zoo import N_DECISIVE

CONFIG = IsolationConfig(
    is_evidence=False,
    layers=(1,),
    dictionaries=("diff-batchtopk", "diff-relu"),
    n_prompts=180,
    n_verify=4,
    n_sparsity_trials=2,
    causal=("diff-batchtopk", "directions"),
    paper=PaperStudy(cell=PaperConfig(n_permutations=20, n_null=3)),
    alarms=Audited(clean=1),
    small=SmallModelConfig(n_blocks=2, n_steps=8, batch_size=8),
    plant={"n_steps": 4, "pairs_per_step": 2},
    dictionary=DictionarySizes(expansion=2, k=4, n_samples=2000, batch_size=256, corpus_documents=40),
    detection=DetectionSizes(n_random_bases=20, n_shuffles=20),
    behaviour=BehaviourSizes(n_prompts=4, n_choice_prompts=4, n_new_tokens=4, cost_documents=4),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return run_study(CONFIG, out=out, preset="test"), out


def test_there_is_a_cell_for_every_organism_and_method(study):
    results, _ = study
    assert results.failed == {}
    methods = {
        cell.organism: {c.method for c in results.cells if c.organism == cell.organism} for cell in results.cells
    }
    assert set(methods) == {"phrase-poisoned-s0", "phrase-clean-s0"}
    for found in methods.values():
        assert {"text only", "mean difference", "random directions", "diff-batchtopk", "diff-relu"} <= found
        assert len(found) == 15
    assert [model.organism for model in results.models] == ["phrase-poisoned-s0", "phrase-clean-s0"]
    assert [model.passed for model in results.models] == [None, None], "four prompts cannot tell"


def test_the_fewest_prompts_that_can_pass_the_gate():
    assert Arm("tuned", "N0", N_DECISIVE, 0, N_DECISIVE).bounds()[1] <= 0.05
    assert Arm("tuned", "N0", N_DECISIVE - 1, 0, N_DECISIVE - 1).bounds()[1] > 0.05


def test_the_text_alone_separates_the_prompts(study):
    """The positive control of the table: the trigger is a phrase, so a reader of the text must find it."""
    text = [cell for cell in study[0].cells if cell.method == "text only"]
    assert all(cell.auroc > 0.95 for cell in text)


def test_no_score_passes_the_ceiling_of_its_bis(study):
    for cell in study[0].cells:
        assert cell.bis <= cell.bis_ceiling + 1e-9
        assert cell.interval["auroc"][0] <= cell.auroc <= cell.interval["auroc"][1]


def test_the_other_parts_stand_beside_the_cells(study):
    results, _ = study
    assert [(rows.organism, rows.method) for rows in results.causal] == [
        ("phrase-poisoned-s0", "diff-batchtopk"),
        ("phrase-poisoned-s0", "directions"),
    ]
    assert [alarm.organism for alarm in results.alarms] == ["phrase-clean-s1"]
    (faults,) = results.faults
    assert faults.layer is None
    assert {fault.id for fault in faults.faults} >= {"W1", "W3", "W8", "W9", "W12", "W14"}


def test_an_unmatched_sparsity_is_marked(study):
    by_method = {cell.method: cell for cell in study[0].cells}
    assert by_method["diff-batchtopk"].fit is not None
    assert by_method["diff-batchtopk"].fit.n_trainings == 1
    relu = by_method["diff-relu"]
    assert relu.fit is not None
    assert (relu.status == "ok") == (abs(relu.fit.l0 / 4 - 1) <= 0.05)


def test_the_file_is_what_was_returned_and_a_second_run_does_nothing(study):
    results, out = study
    assert load_results(out) == results
    before = {path: path.stat().st_mtime_ns for path in (out / "tasks").iterdir()}
    again = run_study(CONFIG, out=out, preset="test")
    assert {path: path.stat().st_mtime_ns for path in (out / "tasks").iterdir()} == before
    assert again.cells == results.cells


def test_a_deleted_harvest_is_not_missed_until_a_cell_needs_it(study, tmp_path):
    results, out = study
    place = tmp_path / "copy"
    shutil.copytree(out, place)
    shutil.rmtree(place / "activations")
    run_study(CONFIG, out=place)
    assert not (place / "activations" / "phrase-s0").exists()
    cell = next(path for path in (place / "tasks").iterdir() if path.name.startswith("baselines-phrase-poisoned"))
    first = json.loads(cell.read_text())["record"]["cells"]
    cell.unlink()
    again = run_study(CONFIG, out=place)
    assert (place / "activations" / "phrase-s0").is_dir()
    assert [timeless(c) for c in again.cells] == [timeless(c) for c in results.cells]
    assert [{k: v for k, v in c.items() if k != "cost"} for c in first] == [timeless(c) for c in again.cells][
        : len(first)
    ]


def timeless(cell):
    return cell.model_dump(mode="json", exclude={"cost"})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dictionaries": ["diff-nothing"]}, "there is no 'diff-nothing'"),
        ({"causal": ["direction"]}, "there is no 'direction'"),
        ({"plant": {"seed": 3}}, "the study sets seed itself"),
        ({"plant": {"n_step": 3}}, "n_step"),
        ({"detection": {"target_fpr": 0.05}}, "0.01 false positives"),
        ({"base": "embedded", "alarms": {"clean": 1}}, "base=small"),
        ({"families": [], "alarms": {"clean": 1}}, "families"),
    ],
)
def test_settings_that_make_no_study(changes, said):
    with pytest.raises(ValueError, match=said):
        IsolationConfig.model_validate(changes)


def test_a_directory_of_other_files_is_not_touched(tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(ArtifactError) as caught:
        run_study(CONFIG, out=tmp_path)
    assert caught.value.code == "output-not-empty"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_study_may_grow_but_not_change(study):
    _, out = study
    require_own(out, CONFIG.model_copy(update={"families": ("phrase", "token"), "dictionaries": ()}))
    with pytest.raises(ArtifactError, match="n_prompts") as caught:
        run_study(CONFIG.model_copy(update={"n_prompts": 90}), out=out)
    assert caught.value.code == "output-of-another-run"
