"""One HTML page from the findings of an audit; imports no torch and makes no network request."""

from saeaudit.report.page import render, write_report

__all__ = ["render", "write_report"]
