"""`study isolation` as a user sees it, with the work itself left out."""

import pytest

from report.isolation_example import study
from saeaudit.isolation_results import save_results
from saeaudit.studies import tasks
from saeaudit.studies.isolation import run


@pytest.fixture
def ran(monkeypatch):
    """What `run_study` was called with; it saves example results at once."""
    seen = {}

    def run_study(config, *, out, **given):
        seen.update(given, config=config)
        out.mkdir(parents=True)
        save_results(seen["results"], out)
        return seen["results"]

    monkeypatch.setattr(run, "run_study", run_study)
    return seen


def test_page_and_tables_stand_beside_the_results_and_a_failure_is_said(saeaudit, tmp_path, ran):
    ran["results"] = study()
    done = saeaudit("study", "isolation", "--out", tmp_path / "s", "--seed", "3")
    assert done.code == 1 and "diff-gated-phrase-clean-s0-layers.9 failed: the loss became infinite" in done.err
    names = ["cells.csv", "classes.csv", "dictionaries.csv", "headline.csv", "report.html", "results.json"]
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == names
    assert f"page: {tmp_path / 's' / 'report.html'}" in done.out
    assert ran["config"].seed == 3 and ran["engine"] is tasks.run_here


def test_the_engine_is_chosen(saeaudit, tmp_path, ran):
    ran["results"] = study(failed={})
    done = saeaudit("study", "isolation", "--out", tmp_path / "s", "--engine", "ray")
    assert done.code == 0, done.err
    assert ran["engine"].__name__ == "run_on_ray"
    assert saeaudit("study", "isolation", "--out", tmp_path / "t", "--engine", "slurm").code == 2
