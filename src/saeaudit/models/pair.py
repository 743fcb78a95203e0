"""Load base and tuned model together and refuse a pair whose activations cannot be compared.

Checked in this order, before any weights are read where both are checkpoint directories: architecture family, width,
depth, tokenizers. An adapter is its base by construction and shares the base's tokenizer.
"""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from saeaudit.errors import ModelError
from saeaudit.models.checkpoint import read_checkpoint, read_config, read_tokenizer
from saeaudit.models.load import base_of, from_adapter, from_checkpoint
from saeaudit.models.loaded import LoadedModel, Pair
from saeaudit.models.precision import Dtype, resolve_device, resolve_dtype
from saeaudit.models.source import open_source
from saeaudit.models.vocabulary import compare_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def load_pair(
    base: str,
    tuned: str,
    *,
    dtype: Dtype | torch.dtype = "auto",
    device: str = "cpu",
    allow_base_mismatch: bool = False,
) -> Pair:
    """Return base (side 0) and tuned model (side 1), checked to be comparable.

    Raises:
        ModelError: different family, width or depth (`incompatible-pair`), different tokenizers
            (`tokenizer-mismatch`), and everything that `load_model` raises.
    """
    wanted, place = resolve_dtype(dtype, device), resolve_device(device)
    first, second = open_source(base), open_source(tuned)
    if first.kind == "adapter":
        raise ModelError(
            f"the base {base!r} is a PEFT adapter; the base of a pair must be a full model: fold the adapter into its "
            "own base first and pass that directory",
            code="adapter-without-base",
        )
    if second.kind == "adapter":
        parent = base_of(second, first)
        read = read_checkpoint(first)
        copied = replace(read, model=copy.deepcopy(read.model))
        tuned_model = from_adapter(second, parent, copied, wanted, place, allow_base_mismatch=allow_base_mismatch)
        return Pair(from_checkpoint(first, read, wanted, place), tuned_model)
    if "gguf" not in (first.kind, second.kind):
        require_same_architecture(read_config(first), read_config(second))
        compare_tokenizers(read_tokenizer(first), read_tokenizer(second))
    return make_pair(*(from_checkpoint(source, read_checkpoint(source), wanted, place) for source in (first, second)))


def make_pair(base: LoadedModel, tuned: LoadedModel) -> Pair:
    """Return a pair of models that are already loaded; the checks and errors of `load_pair`."""
    require_same_architecture(base.model.config, tuned.model.config)
    return Pair(base, tuned, compare_tokenizers(base.tokenizer, tuned.tokenizer))


def require_same_architecture(base: "PreTrainedConfig", tuned: "PreTrainedConfig") -> None:
    """Raise unless both configs agree in family, `d_model` and number of blocks.

    Raises:
        ModelError: code `incompatible-pair`; the text gives both values.
    """
    one, two = base.get_text_config(), tuned.get_text_config()
    for what, name in (("architecture", "model_type"), ("d_model", "hidden_size"), ("n_layers", "num_hidden_layers")):
        a, b = getattr(one, name), getattr(two, name)
        if a != b:
            raise ModelError(
                f"the two models cannot be compared: {what} is {a} in the base and {b} in the tuned model; "
                "a pair must be a model and its fine-tuned descendant",
                code="incompatible-pair",
            )
