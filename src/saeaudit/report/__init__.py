"""One HTML page from the findings of an audit or the results of a study; imports no torch, makes no network request."""

from saeaudit.report.isolation_page import render_isolation, write_isolation_report
from saeaudit.report.page import render, write_report

__all__ = ["render", "render_isolation", "write_isolation_report", "write_report"]
