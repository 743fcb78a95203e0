"""Load one model from any source: hub id, directory, PEFT adapter, GGUF file or the embedded default."""

from typing import TYPE_CHECKING

import torch

from saeaudit.artifacts import content_hash
from saeaudit.errors import ModelError
from saeaudit.models.adapter import adapter_sha256, base_name, check_base, fold_adapter, read_adapter_config
from saeaudit.models.checkpoint import Checkpoint, read_checkpoint
from saeaudit.models.loaded import LoadedModel, make_card
from saeaudit.models.precision import Dtype, resolve_device, resolve_dtype
from saeaudit.models.source import Source, open_source
from saeaudit.models.weights import require_finite

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_model(
    source: str,
    *,
    base: str | None = None,
    dtype: Dtype | torch.dtype = "auto",
    device: str = "cpu",
    allow_base_mismatch: bool = False,
) -> LoadedModel:
    """Return the model, tokenizer and card behind `source`, in eval mode, without gradients.

    Args:
        source: Hub id (`organisation/name[@revision]`), checkpoint directory, PEFT adapter directory, `*.gguf` file,
            or "embedded".
        base: Source of the base, for an adapter only; the name inside the adapter is never fetched.
        dtype: "auto" is bfloat16 where the hardware has it, else float32.
        device: A torch device.
        allow_base_mismatch: Accept an adapter that states another base; shapes must fit all the same.

    Returns:
        LoadedModel; `card.weights_sha256` covers the stored weights before the cast (for an adapter: the hash of the
        base's and the adapter's hashes), so it does not depend on `dtype`.

    Raises:
        ModelError: see `open_source`, `read_checkpoint`, `fold_adapter`; an adapter without `base`
            (`adapter-without-base`); NaN or infinite weights (`weights-not-finite`).
        ConfigError: unknown `dtype`.
    """
    wanted, place = resolve_dtype(dtype, device), resolve_device(device)
    opened = open_source(source)
    if opened.kind != "adapter":
        return from_checkpoint(opened, read_checkpoint(opened), wanted, place)
    parent = base_of(opened, None if base is None else open_source(base))
    return from_adapter(opened, parent, read_checkpoint(parent), wanted, place, allow_base_mismatch=allow_base_mismatch)


def from_checkpoint(source: Source, read: Checkpoint, dtype: torch.dtype, device: torch.device) -> LoadedModel:
    """Return a checkpoint that was read, cast and moved (its model is used, not copied)."""
    model = _finish(read, source, dtype, device)
    card = make_card(
        model,
        source=source.text,
        kind=source.kind,
        weights=read.sha256,
        quantisation=read.quantisation,
        revision=source.revision,
    )
    return LoadedModel(model, read.tokenizer, card)


def from_adapter(
    source: Source,
    parent: Source,
    base: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    *,
    allow_base_mismatch: bool,
) -> LoadedModel:
    """Return the adapter `source` folded into `base`, whose model is used up."""
    warnings = check_base(source, parent, base.sha256, allow_mismatch=allow_base_mismatch)
    folded = Checkpoint(fold_adapter(base.model, source), base.tokenizer, base.sha256, base.quantisation)
    model = _finish(folded, source, dtype, device)
    adapter_hash = adapter_sha256(source.path)
    card = make_card(
        model,
        source=source.text,
        kind="adapter",
        # Not the hash of the folded tensors: their last bits depend on the machine's matrix multiplication.
        weights=content_hash({"base": base.sha256, "adapter": adapter_hash}),
        quantisation=base.quantisation,
        adapter_sha256=adapter_hash,
        revision=source.revision,
    )
    return LoadedModel(model, base.tokenizer, card, warnings)


def base_of(source: Source, base: Source | None) -> Source:
    """Return the base to fold the adapter `source` into, after reading the adapter's config.

    Raises:
        ModelError: none was given, or it is an adapter itself (code `adapter-without-base`).
    """
    read_adapter_config(source)
    if base is None:
        raise ModelError(
            f"{source.text!r} is a PEFT adapter, which cannot run without its base; pass the base. It names it as "
            f"{base_name(source)!r} (saeaudit does not fetch that by itself)",
            code="adapter-without-base",
        )
    if base.kind == "adapter":
        raise ModelError(
            f"the base {base.text!r} of the adapter {source.text!r} is an adapter itself; fold it into its own base "
            "first and pass that directory",
            code="adapter-without-base",
        )
    return base


def _finish(read: Checkpoint, source: Source, dtype: torch.dtype, device: torch.device) -> "PreTrainedModel":
    model = read.model.to(dtype=dtype)  # pyright: ignore[reportCallIssue]
    require_finite(model.state_dict(), source.text)
    return model.to(device)  # pyright: ignore[reportArgumentType, reportCallIssue]
