"""The page of an isolation study: nothing is missing, nothing is overstated, and no name becomes markup."""

import json
import re
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings

from report.isolation_example import METHODS, cell, poison_study, study
from report.parsed import HOSTILE, PLOTLY, Page, policy, strings, structure
from saeaudit.errors import ArtifactError
from saeaudit.isolation_results import FILE_NAME, save_results
from saeaudit.organisms.rows import CLASS_NAMES
from saeaudit.report import render_isolation, write_isolation_report
from saeaudit.report.numbers import share, share_interval
from saeaudit.report.text import visible


@cache
def full_page() -> Page:
    return Page(render_isolation(study()))


def test_numbers_that_are_no_evidence_are_called_so_before_any_of_them():
    page = Page(render_isolation(study(is_evidence=False, preset="smoke")))
    assert 0 < page.text.index("These numbers are no evidence") < page.text.index("Does any dictionary")
    assert "no evidence" not in full_page().text


def test_every_cell_stands_in_one_row_with_its_intervals():
    rows = full_page().rows
    for item in study().cells:
        (row,) = [
            row for row in rows if row.startswith(f"{item.organism}{item.layer}{item.method}") and "of 0.400" in row
        ]
        for name in ("auroc", "tpr_at_1pct_fpr", "random_basis_null", "worst_class_fpr", "bis", "bis_star"):
            assert share(getattr(item, name)) in row and share_interval(item.interval[name]) in row, name


def test_a_score_stands_beside_the_twin_of_the_same_layer():
    cells = [
        cell("phrase-poisoned-s0", "layers.9", tpr=0.91),
        cell("phrase-clean-s0", "layers.9", tpr=0.13),
        cell("phrase-clean-s0", "layers.13", tpr=0.77),
    ]
    page = Page(render_isolation(study(cells)))
    assert any("0.910twin 0.130" in row for row in page.rows)
    assert not any("twin 0.770" in row for row in page.rows)


def test_methods_come_by_role_then_by_what_they_reach():
    spec = json.loads(full_page().blocks[0])
    labels = spec["layout"]["yaxis"]["ticktext"]
    assert labels == [
        "diff-batchtopk",
        "crosscoder-relu",
        "linear probe",
        "Mahalanobis",
        "text only",
        "random directions",
    ]
    assert set(labels) == set(METHODS)


def test_the_chart_draws_value_interval_null_and_twin():
    spec = json.loads(Page(render_isolation(study([cell(tpr=0.7), cell("phrase-clean-s0", tpr=0.2)]))).blocks[0])
    traces = {trace["name"]: trace for trace in spec["data"]}
    value, twin, null = (traces[name] for name in ("dictionary", "clean twin", "range of random directions"))
    assert value["x"] == [0.7] and twin["x"] == [0.2] and value["y"] == twin["y"] == [0]
    assert value["error_x"]["array"] == pytest.approx([0.1]) == value["error_x"]["arrayminus"]
    assert null["x"][:2] == pytest.approx([0.0, 0.18]) and null["x"][2] is None


def test_the_legend_names_a_role_that_the_first_layer_lacks():
    cells = [cell(layer="layers.9"), cell(layer="layers.13"), cell(layer="layers.13", method="linear probe")]
    spec = json.loads(Page(render_isolation(study(cells))).blocks[0])
    named = [trace["name"] for trace in spec["data"] if trace.get("showlegend")]
    assert named.count("dictionary") == named.count("baseline") == 1


def test_layers_come_by_depth():
    titles = [note["text"] for note in json.loads(full_page().blocks[0])["layout"]["annotations"]]
    assert titles == ["layers.9", "layers.13"]


@pytest.mark.parametrize(("status", "word"), [("dead", "dead"), ("sparsity-unmatched", "other L0")])
def test_a_dictionary_that_may_not_be_compared_is_marked_wherever_it_stands(status, word):
    cells = [cell(), cell(method="diff-relu", tpr=1.0, status=status), cell(method="linear probe")]
    page = Page(render_isolation(study(cells)))
    assert f"diff-relu ({word})" in json.loads(page.blocks[0])["layout"]["yaxis"]["ticktext"]
    assert any(row.startswith("diff-relu") and f"✗ {word}" in row for row in page.rows)
    assert "The 1 that are left out" in page.text
    assert "diff-relu on phrase" not in page.text[: page.text.index("Organism by organism")]


def test_the_chart_says_at_how_many_layers_a_dictionary_may_not_be_compared():
    cells = [cell(), cell(layer="layers.13", status="dead"), cell(method="linear probe")]
    labels = json.loads(Page(render_isolation(study(cells))).blocks[0])["layout"]["yaxis"]["ticktext"]
    assert labels == ["diff-batchtopk (✗ at 1 of 2)", "linear probe"]


def test_the_classes_are_explained_as_the_organisms_define_them():
    for name, meaning in CLASS_NAMES.items():
        assert name == "T" or f"{name}: {meaning}" in full_page().text


def test_the_highest_rate_of_a_class_is_shown():
    cells = [
        cell(layer="layers.9", class_fpr={"N0": 0.0, "N2": 0.06}),
        cell(layer="layers.13", class_fpr={"N0": 0.25, "N2": 0.0}, worst_class="N0", worst_class_fpr=0.25),
    ]
    rows = [row for row in Page(render_isolation(study(cells))).rows if "N0, phrase-poisoned-s0 layers.13" in row]
    assert len(rows) == 1 and "layers.130.2500.060" in rows[0]


def test_a_behaviour_that_did_not_take_is_said_at_the_top():
    failed = study().models[0].model_copy(update={"passed": False})
    page = Page(render_isolation(study(models=[failed])))
    assert page.text.index("did not take in phrase-poisoned-s0") < page.text.index("Dictionary against baseline")
    assert "did not take" not in full_page().text
    assert "No place has both" in page.text and "No place has both" not in full_page().text


def test_a_flag_without_a_behaviour_is_called_a_false_alarm():
    assert "1 of 3 are flagged: these are false alarms. With one, 1 of 1." in full_page().text


@pytest.mark.parametrize(
    ("changes", "heading"),
    [
        ({"models": []}, "Models"),
        ({"alarms": []}, "Whole audits"),
        ({"failed": {}}, "Failed tasks"),
        ({"cells": []}, "Organism by organism"),
    ],
)
def test_a_section_without_data_is_left_out(changes, heading):
    assert heading in full_page().headings
    assert heading not in Page(render_isolation(study(**changes))).headings


def test_a_study_without_cells_says_so_and_carries_no_script():
    page = Page(render_isolation(study([])))
    assert "There are no cells" in page.text and not page.blocks
    assert "script-src 'none'" in policy(page)


def test_an_organism_whose_twin_failed_and_a_twin_alone_are_shown():
    alone = Page(render_isolation(study([cell(), cell(method="linear probe")])))
    assert not any("twin 0." in row for row in alone.rows) and "Organism by organism" in alone.headings
    twin = Page(render_isolation(study([cell("phrase-clean-s0")])))
    assert "All cells" in twin.headings and "Organism by organism" not in twin.headings


def test_plotly_is_inside_exactly_once_and_nothing_is_referenced():
    html = render_isolation(study())
    assert html.count(PLOTLY) == 1
    allowed = policy(full_page())
    assert allowed.startswith("default-src 'none'") and allowed.count("'sha256-") == 2
    for tag, attrs in full_page().tags:
        assert "src" not in attrs and not [name for name in attrs if name.startswith("on")]
        if "href" in attrs:
            assert attrs["href"].startswith("#") or (tag, attrs["href"]) == ("link", "data:,")


def test_links_in_the_page_have_a_target():
    tags = full_page().tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {attrs["href"][1:] for tag, attrs in tags if tag == "a"}
    assert links and links <= set(ids)


@cache
def harmless():
    return structure(Page(render_isolation(poison_study(study(), "harmless"))))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE)
def test_hostile_text_in_every_name_changes_no_markup_and_hides_nothing(text):
    page = Page(render_isolation(poison_study(study(), text)))
    assert structure(page) == harmless()
    assert all(visible(line) == line for line in page.html.split("\n"))
    data = [json.loads(block) for block in page.blocks[:-2]]
    assert len(data) == 3
    for string in strings(data):
        assert "<" not in re.sub(r"<br>|<extra></extra>", "", string), string


def test_the_page_is_written_beside_the_results(tmp_path):
    save_results(study(), tmp_path)
    path = write_isolation_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render_isolation(study())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", FILE_NAME]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "artifact-missing"),
        ("{", "artifact-broken"),
        ('{"schema": 2}', "schema-mismatch"),
        ('{"schema": 1}', "results-invalid"),
    ],
)
def test_results_that_cannot_be_read_leave_the_old_page(tmp_path, content, code):
    (tmp_path / "report.html").write_text("old")
    if content is not None:
        (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        write_isolation_report(tmp_path)
    assert caught.value.code == code
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.parametrize("lost", ["auroc", "random_basis_null"])
def test_a_cell_without_an_interval_is_refused_by_name(tmp_path, lost):
    dump = study().model_dump(mode="json", by_alias=True)
    del dump["cells"][3]["interval"][lost]
    (tmp_path / FILE_NAME).write_text(json.dumps(dump))
    with pytest.raises(ArtifactError, match=f"cells.3.*{lost}"):
        write_isolation_report(tmp_path)
