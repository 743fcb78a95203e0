"""The page of an isolation study in a real browser: every chart is drawn, when it is opened at the latest."""

import pytest

from report.isolation_example import METHODS, cell, poison_study, study
from saeaudit.isolation_results import save_results
from saeaudit.report import write_isolation_report

pytestmark = pytest.mark.browser
EVIL = "<script>window.__pwned=1</script><img src=x onerror=window.__pwned=1>\u202e"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    directory = tmp_path_factory.mktemp("study")
    organisms = [f"{family}-{variant}-s0" for family in ("phrase", "sql") for variant in ("poisoned", "clean")]
    cells = [cell(o, layer, method) for o in organisms for layer in ("layers.9", "layers.13") for method in METHODS]
    save_results(poison_study(study(cells), EVIL), directory)
    return write_isolation_report(directory).as_uri()


@pytest.fixture(scope="module")
def opened(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url, wait_until="load")
    yield page, requests, complaints
    page.close()


def drawn(chart):
    return chart.evaluate("node => node.querySelectorAll('.scatterlayer .point').length")


def test_a_folded_chart_is_drawn_when_it_is_opened_and_nothing_is_asked_for(opened, url):
    page, requests, complaints = opened
    charts = page.query_selector_all(".chart")
    assert [drawn(chart) > 0 for chart in charts] == [True, False, True, True]
    page.query_selector("details.unit:not([open]) > summary").click()
    page.wait_for_timeout(300)
    for chart in charts:
        assert drawn(chart) >= len(METHODS)
        assert chart.bounding_box()["width"] > 500
    assert requests == [url] and complaints == []
    assert page.evaluate("window.__pwned") is None
    assert page.evaluate("document.querySelectorAll('svg a, svg script, svg image').length") == 0


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_not_wider_than_the_window(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
