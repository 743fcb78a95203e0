"""The page in a real browser: it draws, asks for nothing, and runs nothing that a model wrote."""

import pytest

from report.example import corpus, example
from report.hostile import poison
from saeaudit.findings import FILE_NAME, save_findings
from saeaudit.report import write_report

pytestmark = pytest.mark.browser
EVIL = (
    "<script>window.__pwned=1</script><img src=x onerror=window.__pwned=1></script>"
    '<svg onload=window.__pwned=1><a href="javascript:window.__pwned=1">\u202e'
)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    # The payload comes first in one class of names, or the cut of long labels would remove it.
    full = example("flag").model_copy(update={"corpus": corpus()})
    findings = poison(full, EVIL)
    rates = [rate.model_copy(update={"name": EVIL}) for rate in findings.class_rates]
    save_findings(findings.model_copy(update={"class_rates": rates}), directory / FILE_NAME)
    return write_report(directory).as_uri()


@pytest.fixture(scope="module")
def opened(browser, url):
    """A page with what it asked for and what it complained about."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, complaints = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url, wait_until="load")
    yield page, requests, complaints
    page.close()


def test_it_loads_alone_and_without_complaint(opened, url):
    page, requests, complaints = opened
    for chart in page.query_selector_all(".chart"):
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    page.wait_for_timeout(300)
    assert requests == [url]
    assert complaints == []
    assert page.evaluate("window.__pwned") is None


def test_every_chart_has_visible_traces(opened):
    page, _, _ = opened
    charts = page.query_selector_all(".chart")
    assert len(charts) == 4
    for chart in charts:
        sizes = chart.evaluate(
            """node => [...node.querySelectorAll('.scatterlayer .point, .scatterlayer .js-line, .barlayer .point path')]
                .map(part => part.getBoundingClientRect()).map(box => Math.max(box.width, box.height))"""
        )
        assert len(sizes) > 3 and sum(size > 0 for size in sizes) > 3
        box = chart.bounding_box()
        assert box["width"] > 500 and box["height"] > 150


def test_hostile_names_are_text_in_the_charts(opened):
    page, _, _ = opened
    assert page.evaluate("document.querySelectorAll('svg a, svg script, svg image, svg foreignObject').length") == 0
    labels = page.evaluate("[...document.querySelectorAll('#chart-classes .ytick text')].map(node => node.textContent)")
    assert len(labels) == len(example("flag").class_rates) and all(label.startswith("<script>") for label in labels)


def test_the_hover_label_of_a_hostile_name_is_text(opened):
    page, _, _ = opened
    page.evaluate("Plotly.Fx.hover('chart-classes', [{curveNumber: 0, pointNumber: 5}])")
    text = page.evaluate("document.querySelector('#chart-classes .hoverlayer').textContent")
    assert "<script>" in text
    assert page.evaluate("document.querySelectorAll('.hoverlayer a').length") == 0


def test_a_script_that_got_in_would_not_run(browser, url):
    page = browser.new_page()
    complaints = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(url)
    page.evaluate(
        """() => {
            const script = document.createElement('script');
            script.textContent = 'window.__pwned = 1';
            document.body.append(script);
            const holder = document.createElement('div');
            holder.innerHTML = '<img src="data:," onerror="window.__pwned = 1">';
            document.body.append(holder);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.__pwned") is None
    assert sum("Content Security Policy" in text for text in complaints) >= 2
    page.close()


@pytest.mark.parametrize("width", [1280, 800, 400])
def test_the_page_is_not_wider_than_the_window(opened, width):
    page, _, _ = opened
    page.set_viewport_size({"width": width, "height": 900})
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark_mode_changes_page_and_chart_text(browser, url):
    colours = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(url)
        page.wait_for_selector("#chart-methods .ytick text")
        colours[scheme] = page.evaluate(
            """['body', '#chart-methods .ytick text'].map(name => {
                const style = getComputedStyle(document.querySelector(name));
                return name === 'body' ? style.backgroundColor : style.fill;
            })"""
        )
        page.close()
    assert all(light != dark for light, dark in zip(colours["light"], colours["dark"], strict=True))


def test_charts_fit_on_paper_and_come_back(browser, url):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(url)
    width = "Math.max(...[...document.querySelectorAll('.chart .main-svg')].map(n => n.getBoundingClientRect().width))"
    before = page.evaluate(width)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(width) <= 640 < before
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(f"{width} === {before}")
    page.close()
