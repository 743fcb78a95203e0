"""The CSV tables read back: every number of the results is there, under its name."""

import csv
from typing import get_args

import pytest

from report.isolation_example import METHODS, cell, study
from saeaudit.detection import BASELINES
from saeaudit.isolation_results import CONDITIONAL, CONTROLS, INTERVALS
from saeaudit.organisms.names import Variant
from saeaudit.studies.isolation.baselines import RANDOM
from saeaudit.studies.isolation.tables import write_tables


def test_the_names_that_set_apart_controls_are_names_of_the_study():
    assert {*BASELINES, RANDOM} >= CONTROLS and set(get_args(Variant)) >= CONDITIONAL


def read(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_every_cell_is_a_row_with_all_its_numbers(tmp_path):
    results = study()
    paths = write_tables(results, tmp_path)
    assert [path.name for path in paths] == ["cells.csv", "headline.csv", "classes.csv", "dictionaries.csv"]
    rows = read(tmp_path / "cells.csv")
    assert len(rows) == len(results.cells)
    for row, item in zip(rows, results.cells, strict=True):
        assert (row["organism"], row["layer"], row["method"]) == (item.organism, item.layer, item.method)
        assert float(row["bis_ceiling"]) == item.bis_ceiling and row["role"] == item.role
        for name in INTERVALS:
            assert (float(row[f"{name}_low"]), float(row[f"{name}_high"])) == item.interval[name]
            assert float(row[name]) == getattr(item, name)
        assert int(row["n_test_trigger"]) == 48
        assert row["fit_l0"] == (str(item.fit.l0) if item.fit else "")
        assert row["fit_fvu_delta"] == ""
        assert float(row["train_seconds"]) == item.cost.train_seconds


def test_the_headline_sets_planted_beside_null_and_twin(tmp_path):
    cells = [
        cell(tpr=0.9),
        cell("phrase-clean-s0", tpr=0.2),
        cell(layer="layers.13", tpr=0.4),
        cell(method="diff-relu", status="dead"),
        cell(method="diff-gated", status="sparsity-unmatched"),
    ]
    write_tables(study(cells), tmp_path)
    first, second = read(tmp_path / "headline.csv")
    assert (first["tpr_at_1pct_fpr"], first["twin_tpr_at_1pct_fpr"]) == ("0.9", "0.2")
    assert float(first["gap_to_null"]) == pytest.approx(0.9 - 0.08)
    assert (second["layer"], second["twin_tpr_at_1pct_fpr"]) == ("layers.13", "")
    assert float(first["bis_star_low"]) == cells[0].interval["bis_star"][0]


def test_classes_and_dictionaries_have_a_row_each(tmp_path):
    results = study()
    write_tables(results, tmp_path)
    classes = read(tmp_path / "classes.csv")
    assert len(classes) == sum(len(item.class_fpr) for item in results.cells)
    assert {row["class"]: float(row["fpr"]) for row in classes if row["method"] == "linear probe"} == {
        "N0": 0.0,
        "N2": 0.06,
        "N3": 0.02,
    }
    dictionaries = read(tmp_path / "dictionaries.csv")
    assert {row["method"] for row in dictionaries} == {name for name in METHODS if name.startswith(("diff", "cross"))}
    assert {(row["l0"], row["l0_wanted"], row["fvu"], row["alive"]) for row in dictionaries} == {
        ("16.2", "16.0", "0.31", "0.97")
    }


def test_no_cells_give_empty_tables(tmp_path):
    for path in write_tables(study([]), tmp_path):
        assert read(path) == []
