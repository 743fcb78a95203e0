"""A dictionary too large for one device: each rank holds some of its latents, with their moments and counters.

Encoder rows, decoder rows and encoder biases are cut into consecutive parts; the decoder bias is on every rank. Ranks
exchange the scores that compete and add up their partial decodes (`Ranks` of `Grid.latents`); that is 2 B d floats a
step and side, whatever the number of latents. Merged, the parts are an ordinary dictionary.
"""

import torch
from torch import nn

from saeaudit.dictionaries.base import Dictionary
from saeaudit.dictionaries.config import DictionaryConfig, PublishedConfig
from saeaudit.distributed import Ranks
from saeaudit.errors import ConfigError

SHARDED, REPLICATED = ("W_enc", "W_dec", "b_enc"), ("b_dec",)


def shard(dictionary: Dictionary, ranks: Ranks) -> None:
    """Keep only this rank's latents, in place; a training step must then be given the ranks.

    Raises:
        ConfigError: a setting does not allow it (code `not-shardable`).
    """
    if ranks.size == 1:
        return
    require_shardable(dictionary.config, ranks.size)
    coder, n = dictionary.coder, dictionary.n_latents // ranks.size
    for name in SHARDED:
        part = coder.get_parameter(name).detach()[ranks.rank * n : (ranks.rank + 1) * n]
        setattr(coder, name, nn.Parameter(part.clone()))


@torch.no_grad()
def merge(dictionary: Dictionary, ranks: Ranks) -> None:
    """Undo `shard`, in place: every rank has all latents, on the CPU."""
    if ranks.size == 1:
        return
    dictionary.cpu()
    for name in SHARDED:
        part = dictionary.coder.get_parameter(name)
        whole = nn.Parameter(ranks.gather(part.detach()).flatten(0, 1), requires_grad=part.requires_grad)
        setattr(dictionary.coder, name, whole)


def require_shardable(config: DictionaryConfig, n_shards: int) -> None:
    """Check that the latents of a dictionary can be divided.

    Raises:
        ConfigError: all reasons why not (code `not-shardable`).
    """
    published = config.published or PublishedConfig()
    problems = [
        (config.n_latents % n_shards > 0, f"{config.n_latents} latents cannot be cut into {n_shards} equal parts"),
        (config.sparsity not in ("topk", "batchtopk"), f"the rule {config.sparsity} is not topk or batchtopk"),
        (config.penalty is not None, "a penalty is added to the loss"),
        (config.crosscoder is not None and bool(config.crosscoder.ranges), "the latents have ranges of their own"),
        (published.tied is not None, "encoder and decoder are one matrix"),
        (published.pre_bias, "the decoder bias is subtracted before encoding"),
    ]
    found = [text for broken, text in problems if broken]
    if found:
        raise ConfigError(
            f"this dictionary cannot be divided by latents: {'; '.join(found)}; train it with latent_shards=1, where "
            "processes divide the rows of each batch",
            code="not-shardable",
        )
