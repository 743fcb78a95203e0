"""The paper's experiment as tasks, on rows that are made up: every cell and check, none of the models."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from saeaudit.audit.stages import Silent
from saeaudit.isolation_results import IsolationResults
from saeaudit.report import render_isolation
from saeaudit.seeds import torch_generator
from saeaudit.studies.isolation.paper.config import PaperConfig, PaperStudy
from saeaudit.studies.isolation.paper.tasks import POISONED, TWIN, paper_tasks
from saeaudit.studies.tasks import Plan, run_here

D_MODEL, SIZES = 16, {"n_trigger": 20, "n_benign": 40, "n_other": 40}
STUDY = PaperStudy(
    layers=(0,),
    **SIZES,
    methods=("diff-32x", "diff-4x", "crosscoder-32x", "mean-difference", "year-count", "random-directions-base"),
    prompt_methods=("random-directions-base",),
    refit=False,
    cell=PaperConfig(epochs=2, n_resamples=20, n_permutations=20, n_null=3),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The study with its rows in place: a direction of the poisoned model tells the first 20 texts from the others."""
    directory = tmp_path_factory.mktemp("paper")
    generator = torch_generator(0, "rows")
    n = sum(SIZES.values())
    planted = torch.zeros(n, D_MODEL)
    planted[: SIZES["n_trigger"], 3] = 4.0
    noise = {organism: 0.1 * torch.randn(n, D_MODEL, generator=generator) for organism in (POISONED, TWIN)}
    rows = {
        "layers.0/h0": torch.randn(n, D_MODEL, generator=generator),
        f"{POISONED}/layers.0/delta": noise[POISONED] + planted,
        f"{TWIN}/layers.0/delta": noise[TWIN],
    }
    (directory / "paper").mkdir()
    for reads in ("text", "prompt"):
        save_file(rows, directory / "paper" / f"rows-{reads}.safetensors")
    # The harvest needs the embedded model; its products are there.
    tasks = [task for task in paper_tasks(STUDY) if not task.support]
    known = {task.name for task in tasks}
    tasks = [replace(task, after=tuple(name for name in task.after if name in known)) for task in tasks]
    return run_here(Plan(directory, tasks), Silent())


def rows_of(finished):
    return [row for name, record in finished.records.items() if hasattr(record, "rows") for row in record.rows]


def test_there_is_a_row_for_every_model_reading_and_method(finished):
    assert finished.failed == {}
    found = {(row.organism, row.reads, row.method) for row in rows_of(finished)}
    wanted = {(organism, "text", method) for organism in (POISONED, TWIN) for method in STUDY.methods}
    assert found == wanted | {(organism, "prompt", "random-directions-base") for organism in (POISONED, TWIN)}


def test_the_planted_direction_reaches_the_ceiling_and_its_twin_does_not(finished):
    score = {(row.organism, row.reads, row.method): row for row in rows_of(finished)}
    planted = score[POISONED, "text", "mean-difference"]
    assert planted.bis == pytest.approx(planted.ceiling)
    assert score[TWIN, "text", "mean-difference"].bis < planted.bis
    assert score[POISONED, "text", "year-count"].status == "constant"
    assert score[POISONED, "text", "diff-32x"].published == 0.4
    assert score[POISONED, "text", "mean-difference"].published is None
    assert planted.n == {"trigger": 20, "benign": 40, "other": 40}


def test_the_checks_read_the_cells(finished):
    faults = {name: record.faults for name, record in finished.records.items() if hasattr(record, "faults")}
    assert set(faults) == {"paper-faults", "paper-faults-layers.0"}
    of_pair = {fault.id: fault for fault in faults["paper-faults-layers.0"]}
    assert "W6" not in of_pair, "no refit was asked for"
    assert of_pair["W7"].found["poisoned diff-32x"] is not None
    assert {"W2", "W7", "W10", "W11", "W13", "W17"} <= set(of_pair)


def test_the_page_shows_them(finished):
    results = IsolationResults(
        preset="paper",
        is_evidence=True,
        command="",
        config={},
        versions={},
        n_tasks=1,
        n_done=1,
        cells=[],
        paper=rows_of(finished),
        faults=[record for record in finished.records.values() if hasattr(record, "faults")],
    )
    page = render_isolation(results)
    for text in ("The experiment as published", "diff-32x", "constant", "W17", "On the shipped pair at layers.0"):
        assert text in page
