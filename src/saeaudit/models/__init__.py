"""Models: load them from anywhere, read and change their residual stream, run part of them, generate."""

from saeaudit.models.adapter import ADAPTER_METADATA
from saeaudit.models.blocks import run_blocks
from saeaudit.models.cache import growing_cache
from saeaudit.models.embedded import EMBEDDED, cache_directory, embedded_directory
from saeaudit.models.generate import Generation, greedy
from saeaudit.models.hooks import Capture, Edit, EditFunction
from saeaudit.models.load import load_model
from saeaudit.models.loaded import LoadedModel, Pair, make_card
from saeaudit.models.pair import load_pair, make_pair
from saeaudit.models.precision import Dtype, resolve_dtype
from saeaudit.models.resume import resumed_at
from saeaudit.models.sites import Site, blocks, decoder, resolve_site, site_index, site_name
from saeaudit.models.tokens import (
    TokenBatch,
    context_length,
    encode_batch,
    encode_texts,
    last_columns,
    pad_id,
    pad_rows,
    position_ids,
)
from saeaudit.models.vocabulary import compare_tokenizers
from saeaudit.models.weights import weights_sha256

__all__ = [
    "ADAPTER_METADATA",
    "EMBEDDED",
    "Capture",
    "Dtype",
    "Edit",
    "EditFunction",
    "Generation",
    "LoadedModel",
    "Pair",
    "Site",
    "TokenBatch",
    "blocks",
    "cache_directory",
    "compare_tokenizers",
    "context_length",
    "decoder",
    "embedded_directory",
    "encode_batch",
    "encode_texts",
    "greedy",
    "growing_cache",
    "last_columns",
    "load_model",
    "load_pair",
    "make_card",
    "make_pair",
    "pad_id",
    "pad_rows",
    "position_ids",
    "resolve_dtype",
    "resolve_site",
    "resumed_at",
    "run_blocks",
    "site_index",
    "site_name",
    "weights_sha256",
]
