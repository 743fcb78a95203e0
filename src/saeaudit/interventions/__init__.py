"""Take hold of latents while a model runs: clamps, edits that read the base beside the tuned model."""

from saeaudit.interventions.edits import Clamp, LatentEdit, compose
from saeaudit.interventions.paired import AddAt, PairedBase, PairedClamp, clamped, read_base
from saeaudit.interventions.shared import SharedPass
from saeaudit.interventions.steer import (
    Change,
    EqualNorm,
    GainLatents,
    ProjectOut,
    ReplaceDifference,
    SidedEdit,
    Steer,
    changed,
    read_latents,
    written_rows,
)

__all__ = [
    "AddAt",
    "Change",
    "Clamp",
    "EqualNorm",
    "GainLatents",
    "LatentEdit",
    "PairedBase",
    "PairedClamp",
    "ProjectOut",
    "ReplaceDifference",
    "SharedPass",
    "SidedEdit",
    "Steer",
    "changed",
    "clamped",
    "compose",
    "read_base",
    "read_latents",
    "written_rows",
]
