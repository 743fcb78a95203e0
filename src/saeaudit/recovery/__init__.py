"""Prove: does the behaviour come back while the clamp stays on?"""

from saeaudit.recovery.continuation import ClampedContinuation
from saeaudit.recovery.ladder import ArmResult, LadderConfig, LadderResult, climb
from saeaudit.recovery.nullspace import NullSpace, null_space
from saeaudit.recovery.search import Found, RowScores, project_ball, random_feasible, search
from saeaudit.recovery.trial import Flip, enter_clamp, generate

__all__ = [
    "ArmResult",
    "ClampedContinuation",
    "Flip",
    "Found",
    "LadderConfig",
    "LadderResult",
    "NullSpace",
    "RowScores",
    "climb",
    "enter_clamp",
    "generate",
    "null_space",
    "project_ball",
    "random_feasible",
    "search",
]
