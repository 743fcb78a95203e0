"""The report of an audit: `build_view` chooses what is shown, the templates print it."""

from pathlib import Path

from saeaudit.artifacts import write_bytes
from saeaudit.findings import Findings, load_findings
from saeaudit.report.html import REPORT_NAME, render_page
from saeaudit.report.view import build_view

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
    return render_page("report.html.j2", **build_view(findings), badge=VERDICTS[findings.verdict])


def write_report(directory: Path) -> Path:
    """Read `findings.json` in `directory` and write `report.html` beside it, atomically; return the path of the page.

    Raises:
        ArtifactError: there are no findings, they are broken or of another schema.
        ResourceError: the page cannot be written.
    """
    path = directory / REPORT_NAME
    write_bytes(path, render(load_findings(directory)).encode())
    return path
