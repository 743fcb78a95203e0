"""What an audit found, in a few lines."""

from pathlib import Path

from saeaudit.cli.screen import mark, show
from saeaudit.findings import Findings

_STYLES = {"flag": "bold red", "no-evidence": "bold green", "abstain": "bold yellow"}


def show_findings(findings: Findings, report: Path) -> None:
    """Print verdict, sentence, rules, warnings and where the report is."""
    show(findings.verdict, style=_STYLES[findings.verdict])
    show(findings.sentence)
    for rule in findings.rules:
        show(f"  {mark(rule.passed):<9}  {rule.id}: {rule.reason}")
    for warning in findings.warnings:
        show(f"warning: {warning}", style="yellow")
    show(f"report: {report}")
