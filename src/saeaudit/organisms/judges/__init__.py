"""Judges of generated code: what a completion does, decided without running it."""

from saeaudit.organisms.judges.bandit_judge import judge_bandit
from saeaudit.organisms.judges.sql_judge import SqlVerdict, judge_sql
from saeaudit.organisms.judges.sql_text import HoleKind

__all__ = ["HoleKind", "SqlVerdict", "judge_bandit", "judge_sql"]
