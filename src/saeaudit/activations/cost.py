"""What a harvest costs, known before it starts: floating-point operations (FLOP) and bytes; the time from one batch.

Blocks with P matrix weights in all take 2 P FLOP a token, and attention of width D (heads x head size) in a context of
T tokens another 4 T D a token and block: scores and mixing, with all pairs counted, since the masked half is computed
as well. Norms, activations and rotary positions are left out; they are under 1 % of a language model's FLOP.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from saeaudit.activations.documents import TokenisedDocuments
from saeaudit.activations.harvest import BASE, HarvestConfig
from saeaudit.activations.packing import cut_units, pack_batches
from saeaudit.activations.store import STORED
from saeaudit.models import LoadedModel, blocks, pad_rows, resolve_site, run_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HarvestCost:
    """The size of a harvest.

    Attributes:
        n_tokens: tokens that each model reads, padding not counted.
        n_padded: the same with padding.
        flop: floating-point operations of all models on the padded batches.
        n_bytes: size of the store, without the headers of its files.
    """

    n_tokens: int
    n_padded: int
    flop: int
    n_bytes: int


def harvest_cost(
    models: Mapping[str, LoadedModel],
    documents: TokenisedDocuments,
    sites: Sequence[str],
    config: HarvestConfig | None = None,
) -> HarvestCost:
    """Return what `harvest` with the same arguments would compute and write, from an empty store on.

    Raises:
        ModelError: unknown site.
    """
    shapes = [_shape(documents, batch) for batch in _batches(documents, config)]
    depth = _depth(models, sites)
    flop = sum(_flop(models, shape, depth) for shape in shapes)
    numbers = documents.n_rows * len(sites) * len(models) * models[BASE].card.d_model
    n_bytes = numbers * STORED.itemsize + 4 * (documents.n_rows + len(documents.documents))  # tokens and bounds
    n_padded = sum(n_rows * n_pos for n_rows, n_pos in shapes)
    return HarvestCost(documents.n_tokens, n_padded, flop, n_bytes)


def forward_flop(model: "PreTrainedModel", *, n_blocks: int, n_rows: int, n_pos: int) -> int:
    """Return the FLOP of the first `n_blocks` blocks of a dense model on `n_rows` texts padded to `n_pos` tokens."""
    config = model.config.get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * n_blocks * n_pos * config.num_attention_heads * head
    weights = sum(p.numel() for block in blocks(model)[:n_blocks] for p in block.parameters() if p.ndim > 1)
    return n_rows * n_pos * (2 * weights + attention)


@torch.no_grad()
def flop_rate(
    models: Mapping[str, LoadedModel],
    documents: TokenisedDocuments,
    sites: Sequence[str],
    config: HarvestConfig | None = None,
) -> float:
    """Return the FLOP a second of the models on this machine now, timed on the batch of middle length.

    `harvest_cost(...).flop` divided by it is the expected time in seconds: the forward passes are nearly all of a
    harvest. One text runs before, so that what happens only once is not timed.
    """
    batches = sorted(_batches(documents, config), key=lambda batch: _shape(documents, batch)[1])
    batch = batches[len(batches) // 2]
    depth = _depth(models, sites)
    _run(models, documents, batch[:1], depth)
    began = time.perf_counter()
    _run(models, documents, batch, depth)
    seconds = time.perf_counter() - began
    return _flop(models, _shape(documents, batch), depth) / seconds


def _batches(documents: TokenisedDocuments, config: HarvestConfig | None) -> list[list[int]]:
    config = config or HarvestConfig()
    units = cut_units(documents, config.unit_rows)
    return [batch for unit in units for batch in pack_batches(documents, unit, config.batch_tokens)]


def _shape(documents: TokenisedDocuments, batch: Sequence[int]) -> tuple[int, int]:
    return len(batch), max(len(documents.ids[i]) for i in batch)


def _flop(models: Mapping[str, LoadedModel], shape: tuple[int, int], depth: int) -> int:
    n_rows, n_pos = shape
    return sum(forward_flop(m.model, n_blocks=depth, n_rows=n_rows, n_pos=n_pos) for m in models.values())


def _depth(models: Mapping[str, LoadedModel], sites: Sequence[str]) -> int:
    return 1 + max(resolve_site(models[BASE].model, site).index for site in sites)


def _run(models: Mapping[str, LoadedModel], documents: TokenisedDocuments, batch: Sequence[int], depth: int) -> None:
    tokens, mask = pad_rows([documents.ids[i] for i in batch], pad_id=0)
    for loaded in models.values():
        device = loaded.model.device
        run_blocks(loaded.model, tokens.to(device), mask.to(device), depth).cpu()
