"""The page of an isolation study: what was run, its questions answered, and every cell."""

from pathlib import Path

from saeaudit.artifacts import write_bytes
from saeaudit.isolation_results import IsolationResults, load_results
from saeaudit.report.html import REPORT_NAME, render_page
from saeaudit.report.isolation_view import build_isolation_view


def render_isolation(results: IsolationResults) -> str:
    """Return the page of a study as one self-contained HTML page that makes no network request."""
    return render_page("isolation/page.html.j2", **build_isolation_view(results))


def write_isolation_report(directory: Path) -> Path:
    """Read `results.json` in `directory` and write `report.html` beside it, atomically; return the path of the page.

    Raises:
        ArtifactError: there are no results, they are broken or of another schema, or a cell lacks its intervals.
        ResourceError: the page cannot be written.
    """
    path = directory / REPORT_NAME
    write_bytes(path, render_isolation(load_results(directory)).encode())
    return path
