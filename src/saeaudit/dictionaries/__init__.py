"""Sparse dictionaries of activations: SAE, Diff-SAE, crosscoder."""

from saeaudit.dictionaries.base import Dictionary, Provenance
from saeaudit.dictionaries.build import KINDS, build
from saeaudit.dictionaries.code import Code
from saeaudit.dictionaries.coder import SparseCoder
from saeaudit.dictionaries.config import (
    COUNTING,
    Anneal,
    CrosscoderConfig,
    DictionaryConfig,
    JumpReluConfig,
    Kind,
    Layout,
    Penalty,
    PublishedConfig,
    Range,
    Rule,
    Score,
)
from saeaudit.dictionaries.crosscoder import Crosscoder
from saeaudit.dictionaries.diff import DiffSae
from saeaudit.dictionaries.folded import Folded
from saeaudit.dictionaries.forward import Forward
from saeaudit.dictionaries.gated import Gated
from saeaudit.dictionaries.gemm import EncodeGemm, Precision, resolve_precision
from saeaudit.dictionaries.jumprelu import JumpRelu
from saeaudit.dictionaries.loading import load_dictionary
from saeaudit.dictionaries.relu import Relu
from saeaudit.dictionaries.sae import Sae
from saeaudit.dictionaries.selection import select_largest
from saeaudit.dictionaries.sharding import REPLICATED, merge, require_shardable, shard
from saeaudit.dictionaries.sparsity import Sparsity
from saeaudit.dictionaries.topk import BatchTopK, TopK

__all__ = [
    "COUNTING",
    "KINDS",
    "REPLICATED",
    "Anneal",
    "BatchTopK",
    "Code",
    "Crosscoder",
    "CrosscoderConfig",
    "Dictionary",
    "DictionaryConfig",
    "DiffSae",
    "EncodeGemm",
    "Folded",
    "Forward",
    "Gated",
    "JumpRelu",
    "JumpReluConfig",
    "Kind",
    "Layout",
    "Penalty",
    "Precision",
    "Provenance",
    "PublishedConfig",
    "Range",
    "Relu",
    "Rule",
    "Sae",
    "Score",
    "SparseCoder",
    "Sparsity",
    "TopK",
    "build",
    "load_dictionary",
    "merge",
    "require_shardable",
    "resolve_precision",
    "select_largest",
    "shard",
]
