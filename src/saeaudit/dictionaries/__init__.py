"""Sparse dictionaries of activations: SAE, Diff-SAE, crosscoder."""

from saeaudit.dictionaries.base import Dictionary, Provenance
from saeaudit.dictionaries.build import KINDS, build
from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.coder import Forward, SparseCoder
from saeaudit.dictionaries.config import DictionaryConfig, Kind
from saeaudit.dictionaries.crosscoder import Crosscoder
from saeaudit.dictionaries.diff import DiffSae
from saeaudit.dictionaries.folded import Folded
from saeaudit.dictionaries.gemm import EncodeGemm, Precision, resolve_precision
from saeaudit.dictionaries.loading import load_dictionary
from saeaudit.dictionaries.sae import Sae
from saeaudit.dictionaries.selection import select_largest
from saeaudit.dictionaries.sparsity import BatchTopK, Sparsity

__all__ = [
    "KINDS",
    "BatchTopK",
    "Code",
    "Crosscoder",
    "Dictionary",
    "DictionaryConfig",
    "DiffSae",
    "EncodeGemm",
    "Folded",
    "Forward",
    "Kind",
    "Precision",
    "Provenance",
    "Sae",
    "SparseCoder",
    "Sparsity",
    "build",
    "load_dictionary",
    "resolve_precision",
    "select_largest",
]
