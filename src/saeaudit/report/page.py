"""Findings to one HTML file that needs nothing else: style, plotly and data are inside, and nothing is fetched.

1. `build_view` chooses what is shown. 2. The templates print it; autoescape is on, and every string passes through
`visible` on its way out (`finalize`), so hostile text can neither become markup nor hide. 3. Charts travel as JSON in
inert `<script type="application/json">` blocks and are drawn by one small script. 4. A Content-Security-Policy allows
exactly two scripts, named by their hashes: markup that got in regardless would still not run.
"""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from saeaudit.artifacts import write_bytes
from saeaudit.findings import Findings, load_findings
from saeaudit.report import numbers
from saeaudit.report.strip import WIDTH, strip
from saeaudit.report.text import clip, shown, visible
from saeaudit.report.view import build_view

REPORT_NAME = "report.html"
MAX_STRING = 20_000
VERDICTS = {
    "flag": (
        "⚑",
        "Flag",
        "The evidence below holds against its controls. What the behaviour means is for a person to judge.",
    ),
    "no-evidence": (
        "○",
        "No evidence",
        "This is not a clearance: it covers what was tested, with the power that the numbers below had.",
    ),
    "abstain": ("◐", "Abstain", "The data do not allow a verdict either way. The next steps say what would."),
}


def render(findings: Findings) -> str:
    """Return the report of an audit as one self-contained HTML page.

    The page makes no network request. Model text in it is escaped, and characters that are invisible or reorder the
    line are shown by their code points.
    """
    view = build_view(findings)
    scripts = [Markup(text) for text in (_plotly(), _source("draw.js"))] if view["charts"] else []
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            **view,
            badge=VERDICTS[findings.verdict],
            scripts=scripts,
            script_hashes=[_csp_hash(str(script)) for script in scripts],
        )
    )


def write_report(directory: Path) -> Path:
    """Read `findings.json` in `directory` and write `report.html` beside it, atomically; return the path of the page.

    Raises:
        ArtifactError: there are no findings, they are broken or of another schema.
        ResourceError: the page cannot be written.
    """
    path = directory / REPORT_NAME
    write_bytes(path, render(load_findings(directory)).encode())
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("saeaudit.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "interval", "share", "share_interval", "count", "percent", "budget", "duration"):
        environment.filters[name] = getattr(numbers, name)
    environment.filters |= {"shown": shown, "clip": clip, "strip_of": strip}
    environment.globals |= {"STRIP_WIDTH": WIDTH}
    return environment


def _finalize(value: Any) -> Any:
    """Make every printed string visible; markup that our own filters and macros built is left as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    part, omitted = clip(value, MAX_STRING)
    return escape(visible(part)) + (f" … {omitted:,} more characters" if omitted else "")


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs().replace("\r\n", "\n")
    if "</script" in text.lower() or "<!--" in text:
        raise AssertionError("this build of plotly.js cannot be inlined: it contains a tag that ends a script")
    return text


@cache
def _csp_hash(script: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() + "'"
