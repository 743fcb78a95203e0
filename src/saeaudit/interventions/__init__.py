"""Take hold of latents while a model runs: clamps, edits that read the base beside the tuned model."""

from saeaudit.interventions.edits import Clamp, LatentEdit, compose
from saeaudit.interventions.paired import AddAt, PairedBase, PairedClamp, clamped, read_base
from saeaudit.interventions.shared import SharedPass

__all__ = ["AddAt", "Clamp", "LatentEdit", "PairedBase", "PairedClamp", "SharedPass", "clamped", "compose", "read_base"]
