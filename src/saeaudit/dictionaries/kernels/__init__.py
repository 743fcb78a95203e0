"""Sums at chosen places, three ways with the same results: dense formulas, torch's bags, Triton."""

from saeaudit.dictionaries.kernels import reference
from saeaudit.dictionaries.kernels.choice import Kernels, backend

__all__ = ["Kernels", "backend", "reference"]
