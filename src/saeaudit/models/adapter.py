"""Fold a PEFT LoRA adapter into its base.

The folding is done in float32 whatever dtype is computed in later: in bfloat16 a small update is lost in the rounding
of the weight it is added to. What base the adapter was trained on is checked before: against the hash in
`saeaudit.json` beside the adapter if it is there (saeaudit writes it), else by the shapes of its tensors, and a name of
another base is worth a warning. The name that the adapter carries is displayed and never fetched.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeaudit.artifacts import content_hash, file_hash, read_json
from saeaudit.errors import ModelError
from saeaudit.models.embedded import EMBEDDED
from saeaudit.models.quiet import quiet_transformers
from saeaudit.models.source import ADAPTER_CONFIG, Source, read_json_object
from saeaudit.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_METADATA = "saeaudit.json"
_SCHEMA = 1
_PREFIX = "base_model.model."
_NO_NAME = ("", "unknown", "none", EMBEDDED)


def fold_adapter(model: "PreTrainedModel", source: Source) -> "PreTrainedModel":
    """Return the base `model` (changed in place, cast to float32) with the adapter of `source` folded in.

    Raises:
        ModelError: the adapter is not a readable LoRA (`adapter-unsupported`) or does not fit this base
            (`adapter-of-another-base`; the text names tensor and shapes).
    """
    read_adapter_config(source)
    require_fitting_shapes(model, source)
    from peft import PeftModel, get_peft_model_state_dict

    try:
        with quiet_transformers():
            wrapped = PeftModel.from_pretrained(model.float(), str(source.path), torch_device="cpu")
            needed = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
            folded = wrapped.merge_and_unload()
    except Exception as error:  # peft raises errors of many kinds for a config it cannot apply
        raise ModelError(
            f"{source.text}: peft cannot apply this adapter: {type(error).__name__}: {str(error)[:300]}",
            code="adapter-unsupported",
        ) from None
    missing = sorted(needed - _tensor_shapes(source).keys())
    if missing:
        raise ModelError(
            f"{source.text}: the adapter is incomplete: {ADAPTER_WEIGHTS} lacks "
            f"{counted(len(missing), 'tensor')} that its config asks for ({missing[0]!r}); get the complete adapter",
            code="adapter-unsupported",
        )
    return folded.requires_grad_(False).eval()


def adapter_sha256(directory: Path) -> str:
    """Return the hash of an adapter: its config and its weights."""
    return content_hash([file_hash(directory / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)])


def read_adapter_config(source: Source) -> dict[str, Any]:
    """Return `adapter_config.json` as a dictionary.

    Raises:
        ModelError: unreadable, not LoRA, or it would import code by name (code `adapter-unsupported`); weights only
            as pickle (`unsafe-weights`).
    """
    config = read_json_object(source.text, source.path / ADAPTER_CONFIG, code="adapter-unsupported")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelError(
            f"{source.text}: the adapter is of type {kind!r}, only LORA can be folded exactly; merge it with peft "
            "(merge_and_unload), save the model and pass that directory",
            code="adapter-unsupported",
        )
    if config.get("megatron_config"):
        raise ModelError(
            f"{source.text}: the adapter asks peft to import the module {config.get('megatron_core')!r}; refused",
            code="adapter-unsupported",
        )
    if not (source.path / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"{source.text}: {ADAPTER_WEIGHTS} is missing; an adapter that exists only as pickle is refused: load it "
            "in a sandbox and save it with peft's save_pretrained, which writes safetensors",
            code="unsafe-weights",
        )
    return config


def check_base(source: Source, base: Source, base_sha256: str, *, allow_mismatch: bool) -> tuple[str, ...]:
    """Return warnings about the base that the adapter says it was trained on.

    A hash in `saeaudit.json` settles the matter. Without it there is only the name in its config, and the same model
    has several: hub id and local path are compared by their last part, whatever the case.

    Raises:
        ModelError: other weights than `base_sha256` (code `adapter-of-another-base`), unless `allow_mismatch`.
    """
    path, name = source.path / ADAPTER_METADATA, base_name(source)
    stated = read_json(path, schema=_SCHEMA).get("base_weights_sha256") if path.is_file() else None
    if stated is None:
        return () if _same_name(name, base) else (_another_name(source, name, base),)
    if stated == base_sha256:
        return ()
    said = (
        f"{source.text}: the adapter was trained on a base with weights sha256 {str(stated)[:12]}..., but the base "
        f"{base.text!r} has {base_sha256[:12]}...; the adapter names its base as {name!r}"
    )
    if allow_mismatch:
        return (f"{said}. The mismatch was allowed.",)
    raise ModelError(
        f"{said}. Pass that base, or allow_base_mismatch if you know that it is the same model in another precision",
        code="adapter-of-another-base",
    )


def _same_name(stated: str, base: Source) -> bool:
    name = _last_part(stated)
    # A directory has a name where its path has none (".."), and the embedded model's is that of the model in it.
    return name in _NO_NAME or name in (_last_part(base.text), base.path.resolve().name.lower())


def _last_part(name: str) -> str:
    """Return the last part of a path or hub id without its revision, in lower case."""
    return Path(name.partition("@")[0]).name.lower()


def _another_name(source: Source, stated: str, base: Source) -> str:
    return (
        f"The adapter {source.text} names {stated!r} as its base, and the base given is {base.text!r}. The shapes "
        "fit, but names cannot tell whether it is the same model; on another base this is not the model that was tuned."
    )


def base_name(source: Source) -> str:
    """Return the name of the base that the adapter's config states, for display only ("unknown" if it has none)."""
    return str(read_adapter_config(source).get("base_model_name_or_path") or "unknown")


def require_fitting_shapes(model: "PreTrainedModel", source: Source) -> None:
    """Raise unless every tensor of the adapter has a place of the right shape in `model`.

    Raises:
        ModelError: code `adapter-of-another-base`; the text names the first tensor and both shapes.
    """
    shapes = _tensor_shapes(source)
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    swapped = _transposed(model)
    for name, shape in shapes.items():
        expected = _expected(name.removeprefix(_PREFIX), shape, parameters, swapped)
        if expected == shape:
            continue
        what = f"needs {expected}" if expected is not None else "has no such module"
        raise ModelError(
            f"{source.text}: the adapter does not fit this base: its tensor {name!r} has the shape {shape}, the base "
            f"{what}; the adapter names its base as {base_name(source)!r}",
            code="adapter-of-another-base",
        )


def _tensor_shapes(source: Source) -> dict[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(source.path / ADAPTER_WEIGHTS, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{source.text}: {ADAPTER_WEIGHTS} is broken: {error}", code="adapter-unsupported") from None


def _expected(
    name: str, shape: tuple[int, ...], parameters: dict[str, tuple[int, ...]], swapped: set[str]
) -> tuple[int, ...] | None:
    """Return the shape that the base dictates for an adapter tensor; None if the base has no place for it."""
    path, _, part = name.partition(".lora_")
    if not part:
        return parameters.get(name)
    weight = parameters.get(f"{path}.weight")
    if weight is None or not shape:
        return None
    n_out, n_in = (weight[1], weight[0]) if path in swapped else (weight[0], weight[1])
    rank_first, rank_last = shape[0], shape[-1]
    return {
        "A.weight": (rank_first, n_in),
        "B.weight": (n_out, rank_last),
        "B.bias": (n_out,),
        "embedding_A": (rank_first, n_out),
        "embedding_B": (n_in, rank_last),
        "magnitude_vector": (n_out,),
        "magnitude_vector.weight": (n_out,),
    }.get(part, shape)


def _transposed(model: "PreTrainedModel") -> set[str]:
    """Return the modules that store their weight as (in, out): GPT-2's Conv1D."""
    from transformers.pytorch_utils import Conv1D

    return {name for name, module in model.named_modules() if isinstance(module, Conv1D)}
