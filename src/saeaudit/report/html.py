"""One HTML file that needs nothing else: style, plotly and data are inside, and nothing is fetched.

1. The templates print; autoescape is on, and every string passes through `visible` on its way out (`finalize`), so
hostile text can neither become markup nor hide. 2. Charts travel as JSON in inert `<script type="application/json">`
blocks and are drawn by one small script. 3. A Content-Security-Policy allows exactly two scripts, named by their
hashes: markup that got in regardless would still not run.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from saeaudit.report import numbers
from saeaudit.report.strip import WIDTH, strip
from saeaudit.report.text import clip, shown, visible
from saeaudit.wording import duration

REPORT_NAME = "report.html"
MAX_STRING = 20_000


def render_page(template: str, *, charts: Mapping[str, Mapping[str, Any]], **names: Any) -> str:
    """Return `template`, which extends `layout.html.j2`, as one self-contained page.

    Args:
        template: file among the templates.
        charts: plotly data and layout by name; without any, the page carries no script.
        names: what the template prints.
    """
    scripts = [Markup(text) for text in (_plotly(), _source("draw.js"))] if charts else []
    hashes = [_csp_hash(str(script)) for script in scripts]
    page = _environment().get_template(template)
    return page.render(**names, charts=charts, scripts=scripts, script_hashes=hashes)


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
    printing = "number interval share share_interval span count percent budget size"
    environment.filters |= {name: getattr(numbers, name) for name in printing.split()} | {"duration": duration}
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
