import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from report.example import corpus, example
from report.hostile import poison
from report.parsed import HOSTILE, PLOTLY, Page, policy, strings, structure
from saeaudit.errors import ArtifactError
from saeaudit.findings import FILE_NAME, Findings, save_findings
from saeaudit.report import render, write_report
from saeaudit.report.numbers import interval, number
from saeaudit.report.text import visible

TEMPLATES = Path(sys.modules["saeaudit.report"].__file__).parent / "templates"
VERDICTS = {"flag": "Flag", "no-evidence": "No evidence", "abstain": "Abstain"}


@cache
def full() -> Findings:
    """Every section at once."""
    return example("flag").model_copy(update={"corpus": corpus()})


@cache
def full_page() -> Page:
    return Page(render(full()))


@pytest.mark.parametrize("verdict", VERDICTS)
def test_the_verdict_comes_first_with_sentence_pair_and_rules(verdict):
    findings = example(verdict)
    text = Page(render(findings)).text
    head = text[: text.index("Evidence")]
    assert VERDICTS[verdict] in head and findings.sentence in head
    assert "organisms/sql-year-2024" in head and "embedded" in head
    states = re.findall(r"✓ pass|✗ fail|\? undecided", text)
    assert states == [{True: "✓ pass", False: "✗ fail", None: "? undecided"}[rule.passed] for rule in findings.rules]
    others = [label for name, label in VERDICTS.items() if name != verdict]
    assert not any(re.search(rf"\b{label}\b", head) for label in others)


def test_no_evidence_is_not_sold_as_a_clearance():
    assert "not a clearance" in Page(render(example("no-evidence"))).text


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_finding_stands_in_one_row_with_its_control(verdict):
    findings = example(verdict)
    rows = Page(render(findings)).rows
    for item in findings.findings:
        (row,) = [row for row in rows if item.claim in row]
        for part in (
            number(item.value),
            interval(item.interval),
            item.unit,
            f"n {item.n:,}",
            item.control.name,
            number(item.control.value),
            interval(item.control.interval),
            f"n {item.control.n:,}",
        ):
            assert part in row, part


def test_a_rule_shows_the_number_and_control_that_decided_it():
    findings = example("flag")
    text = Page(render(findings)).text
    head = text[: text.index("Evidence")]
    for rule in findings.rules:
        for name in rule.findings:
            used = findings.finding(name)
            assert f"{number(used.value)} against {number(used.control.value)}" in head
            assert used.control.name in head


def test_a_rule_that_names_an_unknown_finding_says_so():
    text = Page(render(example("abstain"))).text
    assert "finding detector.tpr is not in this file" in text


SECTIONS = [
    ("findings", "Evidence"),
    ("latents", "Latents that stand out"),
    ("generations", "Generations before and after ablation"),
    ("recovery", "Recovery under the clamp"),
    ("corpus", "Corpus ranking"),
    ("dictionaries", "Dictionaries"),
    ("not_tested", "Not tested"),
    ("warnings", "Warnings"),
    ("next_steps", "Next steps"),
    ("class_rates", "False positives by class of benign prompt"),
]


@pytest.mark.parametrize(("field", "heading"), SECTIONS)
def test_a_section_without_data_is_left_out(field, heading):
    empty = None if field == "recovery" else []
    assert heading in full_page().headings
    assert heading not in Page(render(full().model_copy(update={field: empty}))).headings


def test_sections_come_in_the_promised_order():
    headings = full_page().headings
    order = ["Evidence", "Detectors at layers.20", "Layers", "Latents that stand out"]
    order += ["Generations before and after ablation", "Recovery under the clamp", "Corpus ranking", "Dictionaries"]
    order += ["Limits and next steps", "Reproduce"]
    assert [heading for heading in headings if heading in order] == order


def test_one_site_needs_no_layer_chart():
    scores = [score for score in full().scores if score.site == "layers.20"]
    assert "Layers" not in Page(render(full().model_copy(update={"scores": scores}))).headings


def test_the_smallest_findings_render_without_scripts():
    bare = {name: [] for name in ("rules", "findings", "scores", "class_rates", "dictionaries", "latents")}
    bare |= {name: [] for name in ("generations", "corpus", "not_tested", "warnings", "next_steps")}
    page = Page(render(full().model_copy(update=bare | {"recovery": None, "timings": {}, "pair": {}})))
    assert page.headings == ["Reproduce", "Seed and versions", "Inputs"]
    assert not page.blocks
    assert "script-src 'none'" in policy(page)


def test_bis_stands_beside_its_ceiling():
    page = full_page()
    chosen = next(score for score in full().scores if score.chosen)
    row = next(row for row in page.rows if row.strip().startswith(f"{chosen.method} ★"))
    assert f"{chosen.bis:.3f}of {chosen.bis_ceiling:.3f}" in row and f"{chosen.bis_star:.3f}" in row


def test_a_rule_that_does_not_count_has_no_k():
    (first, *more) = full().dictionaries
    page = Page(render(full().model_copy(update={"dictionaries": [first.model_copy(update={"k": None}), *more]})))
    rows = [row for row in page.rows if row.startswith(first.site)]
    assert rows[0].startswith(f"{first.site}{first.kind}2,304–"), rows[0]


@pytest.mark.parametrize("injection", ["after_clamp", "before_clamp", "embedding"])
def test_after_clamp_is_said_to_measure_completeness(injection):
    curve = full().recovery.model_copy(update={"injection": injection, "eps50": None})
    text = Page(render(full().model_copy(update={"recovery": curve}))).text
    assert ("does not measure how robust" in text) == (injection == "after_clamp")
    assert "not reached up to a relative budget of 0.32" in text


def test_plotly_is_inside_exactly_once_and_nothing_is_referenced():
    html = render(full())
    assert html.count(PLOTLY) == 1
    page = Page(html)
    allowed = policy(page)
    assert allowed.startswith("default-src 'none'") and allowed.count("'sha256-") == 2
    assert "unsafe-inline" not in allowed.split("script-src")[1] and "unsafe-eval" not in allowed
    for tag, attrs in page.tags:
        assert tag not in ("img", "iframe", "object", "embed", "base", "form", "audio", "video", "source")
        assert "src" not in attrs
        if "href" in attrs:
            assert attrs["href"].startswith("#") or (tag, attrs["href"]) == ("link", "data:,")
    style = (TEMPLATES / "style.css").read_text()
    assert "url(" not in style and "@import" not in style


def test_links_in_the_page_have_a_target():
    tags = full_page().tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {attrs["href"][1:] for tag, attrs in tags if tag == "a"} <= set(ids)


def test_templates_trust_nothing_and_style_no_attribute():
    for file in TEMPLATES.rglob("*.j2"):
        source = file.read_text()
        assert not re.search(r"\|\s*safe\b|autoescape", source.replace("by autoescape", "")), file
        # `shown` builds elements; inside an attribute they would break out of it.
        assert not re.search(r'="[^"]*\|\s*shown[^"]*"', source), file


def test_long_texts_and_lists_are_cut_with_a_note():
    row = full().generations[0]
    rows = [row.model_copy(update={"tuned": "y" * 50_000})] + [row] * 99
    page = Page(render(full().model_copy(update={"generations": rows, "sentence": "z" * 30_000})))
    assert "48,800 more characters" in page.text and "y" * 1201 not in page.text
    assert "The first 24 of 100 prompts are shown" in page.text
    assert "10,000 more characters" in page.text


def test_verdict_of_the_judge_that_tuning_brought_is_marked():
    page = Page(render(full().model_copy(update={"generations": full().generations[:2]})))
    chips = [attrs["class"] for _, attrs in page.tags if attrs.get("class", "").startswith("chip")]
    ablated = [name for name in chips if name == "chip"][: sum(latent.ablated for latent in full().latents)]
    assert chips[len(ablated) :] == ["chip", "chip as-tuned", "chip", "chip as-tuned"] + ["chip"] * 4


@cache
def harmless():
    return structure(Page(render(poison(full(), "harmless"))))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(HOSTILE)
def test_hostile_text_in_every_field_changes_no_markup_and_hides_nothing(text):
    page = Page(render(poison(full(), text)))
    assert structure(page) == harmless()
    assert all(visible(line) == line for line in page.html.split("\n"))
    data = [json.loads(block) for block in page.blocks[:-2]]
    assert len(data) == 4
    for string in strings(data):
        assert "<" not in re.sub(r"</?b>|<br>|<extra></extra>", "", string), string
    assert page.blocks[-2] == "PLOTLY" and page.blocks[-1] == (TEMPLATES / "draw.js").read_text()


def test_the_property_above_can_fail():
    html = render(full()).replace("Flag", "<b onclick=x>Flag</b>", 1)
    assert structure(Page(html)) != structure(full_page())


def test_write_report_puts_the_page_beside_the_findings(tmp_path):
    save_findings(full(), tmp_path / FILE_NAME)
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == render(full())
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE_NAME, "report.html"]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "artifact-missing"),
        ("{", "artifact-broken"),
        ('{"schema": 2}', "schema-mismatch"),
        ('{"schema": 1}', "findings-invalid"),
    ],
)
def test_findings_that_cannot_be_read_leave_the_old_report(tmp_path, content, code):
    (tmp_path / "report.html").write_text("old")
    if content is not None:
        (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        write_report(tmp_path)
    assert caught.value.code == code
    assert (tmp_path / "report.html").read_text() == "old"


def test_a_finding_without_its_control_is_refused(tmp_path):
    dump = full().model_dump(mode="json", by_alias=True)
    del dump["findings"][0]["control"]
    (tmp_path / FILE_NAME).write_text(json.dumps(dump))
    with pytest.raises(ArtifactError, match="control"):
        write_report(tmp_path)


def test_the_same_findings_give_the_same_page():
    assert render(full()) == render(full())


def test_report_does_not_import_torch(tmp_path):
    save_findings(full(), tmp_path / FILE_NAME)
    code = (
        "import sys; from pathlib import Path; from saeaudit.report import write_report; "
        f"write_report(Path({str(tmp_path)!r})); "
        "bad = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
