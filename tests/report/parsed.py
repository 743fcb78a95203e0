"""A page taken apart, and texts that try to become part of it."""

import re
from html.parser import HTMLParser

from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

PLOTLY = get_plotlyjs()


class Page(HTMLParser):
    """Structure, text, and the data blocks of a page; the source of plotly is cut out before parsing."""

    def __init__(self, html: str):
        super().__init__()
        self.html = html.replace(PLOTLY, "PLOTLY")
        self.tags, self.text, self.blocks, self.headings, self.rows = [], "", [], [], []
        self._inside = ""
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style", "h2", "h3") else self._inside
        if tag == "tr":
            self.rows.append("")
        if tag in ("script", "h2", "h3"):
            (self.blocks if tag == "script" else self.headings).append("")

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.blocks[-1] += data
            return
        if self._inside == "style":
            return
        if self._inside:
            self.headings[-1] += data
        if self.rows:
            self.rows[-1] += data
        self.text += data


def policy(page):
    """The Content-Security-Policy."""
    return next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")


def structure(page):
    """Tags and attribute names, without the spans by which hidden characters are shown."""
    spans = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("class") in ("cp", "ws")]
    assert all(set(attrs) == {"class"} for attrs in spans)
    return [
        (tag, sorted(attrs)) for tag, attrs in page.tags if not (tag == "span" and attrs.get("class") in ("cp", "ws"))
    ]


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


FRAGMENTS = """
<script>window.__pwned=1</script> ~ </script> ~ <!-- ~ --> ~ ]]> ~ " onmouseover="x ~ ' x=' ~ &lt;b&gt; ~ <b>
<svg/onload=x> ~ </td></table>
<a href=javascript:x> ~ {{ 7*7 }} ~ {% raw %} ~ %{customdata} ~ \\u003cscript\\u003e ~ `${x}` ~ </style>
"""
HIDDEN = ["\u202e", "\x1b[2J", "\u2028", "\u200b", "\x00", "\U000e0041", "\ufeff"]
NASTY = st.sampled_from([*re.split(r" ~ |\n", FRAGMENTS.strip()), *HIDDEN])
HOSTILE = st.lists(st.one_of(NASTY, st.text(max_size=4)), min_size=1, max_size=4).map("".join).filter(bool)
