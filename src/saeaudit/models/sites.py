"""Sites: named places in the residual stream.

`layers.N` is the residual stream after block N, counted from 0. Hugging Face's `hidden_states[N + 1]` is the same
tensor for every block but the last, whose entry there comes after the final norm.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from saeaudit.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_SITE = re.compile(r"layers\.(0|[1-9][0-9]*)")


@dataclass(frozen=True)
class Site:
    """A resolved site: its name, the block's index (0-based) and the block whose output it is."""

    name: str
    index: int
    module: nn.Module


def resolve_site(model: "PreTrainedModel", name: str) -> Site:
    """Return the site called `name` ("layers.N", N counted from 0).

    Raises:
        ModelError: no such site (code `unknown-site`); the text gives the range of the model.
    """
    stack = blocks(model)
    match = _SITE.fullmatch(name)
    if match is None or int(match[1]) >= len(stack):
        negative = re.fullmatch(r"layers\.-[0-9]+", name) is not None
        why = " (negative numbers are refused: they move when a model is cut short)" if negative else ""
        raise ModelError(
            f"no site matches {name!r}{why}; the model has layers.0 to layers.{len(stack) - 1}, "
            "where layers.N is the residual stream after block N",
            code="unknown-site",
        )
    index = int(match[1])
    return Site(name=name, index=index, module=stack[index])


def site_name(index: int) -> str:
    """Return the name of the site after block `index`.

    >>> site_name(13)
    'layers.13'
    """
    return f"layers.{index}"


def site_index(name: str) -> int:
    """Return N of "layers.N" without a model.

    Raises:
        ModelError: `name` is not of that form (code `unknown-site`).
    """
    match = _SITE.fullmatch(name)
    if match is None:
        raise ModelError(f"{name!r} is not a site; a site is written layers.N with N >= 0", code="unknown-site")
    return int(match[1])


def blocks(model: "PreTrainedModel") -> nn.ModuleList:
    """Return the list of decoder blocks: the only `ModuleList` as long as the config's layer count.

    Direct children of the decoder are preferred over deeper ones.

    Raises:
        ModelError: none or several fit (code `unsupported-architecture`); the text lists what was found.
    """
    stack = decoder(model)
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [(name, module) for name, module in stack.named_modules() if isinstance(module, nn.ModuleList)]
    fitting = [(name, module) for name, module in lists if len(module) == n_layers]
    direct = [(name, module) for name, module in fitting if "." not in name]
    chosen = direct if len(direct) == 1 else fitting
    if len(chosen) != 1:
        found = ", ".join(f"{name} ({len(module)})" for name, module in lists[:8]) or "none"
        raise ModelError(
            f"{type(model).__name__}: the decoder blocks cannot be told apart: {len(chosen)} module lists have the "
            f"config's {n_layers} entries; module lists found: {found}. This architecture is not supported",
            code="unsupported-architecture",
        )
    return chosen[0][1]


def decoder(model: "PreTrainedModel") -> nn.Module:
    """Return the module that runs the blocks: without LM head, the text part of a multimodal container."""
    return model.get_decoder()
