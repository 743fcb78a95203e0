"""Read a full checkpoint (directory or GGUF) as it is stored: native dtype, nothing missing, no code of its own.

The dtype is kept so that the weights can be hashed before they are cast; `load` casts.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from saeaudit.errors import ModelError
from saeaudit.models.embedded import GGUF_NAME, load_gguf
from saeaudit.models.quiet import quiet_transformers
from saeaudit.models.source import MODEL_CONFIG, Source, bad_config, read_json_object
from saeaudit.models.weights import weights_sha256
from saeaudit.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

_SAFE = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True)
class Checkpoint:
    """A model on the CPU in its stored dtype, its tokenizer, the hash of its weights and its quantisation if any."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    sha256: str
    quantisation: str | None


def read_checkpoint(source: Source) -> Checkpoint:
    """Return the checkpoint behind a source of kind hub, directory, embedded or gguf.

    Raises:
        ModelError: unreadable or unsupported (`model-unreadable`), needs its own code (`remote-code`), is quantised
            (`quantised-checkpoint`), lacks tensors (`weights-missing`), has no tokenizer (`tokenizer-missing`).
    """
    if source.kind == "gguf":
        try:
            with quiet_transformers():
                model, tokenizer = load_gguf(source.path)
        except Exception as error:  # parsers of foreign files raise nearly everything
            raise _unreadable(source, error) from None
        quantisation = gguf_quantisation(source.path.name)
    else:
        model, tokenizer = _read_directory(source), read_tokenizer(source)
        quantisation = gguf_quantisation(GGUF_NAME) if source.kind == "embedded" else None
    model.requires_grad_(False).eval()
    _own_memory(model)
    return Checkpoint(model, tokenizer, weights_sha256(model.state_dict()), quantisation)  # pyright: ignore[reportArgumentType]


def read_config(source: Source) -> "PreTrainedConfig":
    """Return the config of a checkpoint directory; see `read_checkpoint` for the errors."""
    from transformers import AutoConfig

    path = source.path / MODEL_CONFIG
    raw = read_json_object(source.text, path, code="model-unreadable")
    if "quantization_config" in raw:
        method = (raw["quantization_config"] or {}).get("quant_method", "unknown")
        raise ModelError(
            f"{source.text}: the checkpoint is quantised ({method}); dequantise it and save it in bfloat16 or float32 "
            "first (GGUF files are the exception: they are dequantised while loading)",
            code="quantised-checkpoint",
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.path, **_SAFE)
    except Exception as error:
        if "auto_map" in raw:
            raise ModelError(
                f"{source.text}: the architecture {raw.get('model_type')!r} is defined by Python code inside the "
                "checkpoint, which saeaudit never runs; use a model that transformers itself supports",
                code="remote-code",
            ) from None
        if "model_type" not in raw:
            raise bad_config(
                source.text, path, "names no model_type, so the architecture is not known", code="model-unreadable"
            ) from None
        raise _unreadable(source, error) from None
    # A config may name an attention kernel that transformers would fetch from the hub and run.
    config._attn_implementation = None
    return config


def read_tokenizer(source: Source) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a checkpoint directory.

    Raises:
        ModelError: it has none or it cannot be read (code `tokenizer-missing`).
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(source.path, **_SAFE)
    except Exception as error:
        raise ModelError(
            f"{source.text}: no tokenizer can be read from {source.path}: {_first_line(error)}; if it was trained with "
            "the tokenizer of its base, copy the tokenizer files of the base into that directory",
            code="tokenizer-missing",
        ) from None


def gguf_quantisation(file_name: str) -> str:
    """Return the quantisation that a GGUF file's name states, "unknown" if it states none.

    >>> gguf_quantisation("SmolLM2-135M-Instruct.Q4_1.gguf")
    'Q4_1'
    """
    parts = file_name.removesuffix(".gguf").replace("-", ".").split(".")
    return parts[-1].upper() if parts[-1].upper().startswith(("Q", "IQ", "F16", "F32", "BF16")) else "unknown"


def _read_directory(source: Source) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    config = read_config(source)
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source.path, config=config, dtype="auto", use_safetensors=True, output_loading_info=True, **_SAFE
            )
    except Exception as error:
        raise _unreadable(source, error) from None
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{source.text}: the checkpoint lacks {counted(len(missing), 'tensor')} of {type(model).__name__} "
            f"({', '.join(missing[:3])}); transformers would fill them with random numbers. Get the complete "
            "checkpoint",
            code="weights-missing",
        )
    if not any(p.is_floating_point() and p.dtype in _FLOATS for p in model.parameters()):
        raise ModelError(f"{source.text}: the weights have no usable floating dtype", code="quantised-checkpoint")
    return model


_FLOATS = {torch.float32, torch.bfloat16, torch.float16, torch.float64}


def _own_memory(model: "PreTrainedModel") -> None:
    """Copy weights out of the memory-mapped file: a file changed later would change, or crash, what was hashed."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()


def _unreadable(source: Source, error: Exception) -> ModelError:
    return ModelError(
        f"{source.text}: transformers cannot read the model in {source.path}: {_first_line(error)}; it must be a "
        "causal language model of an architecture that transformers supports, complete, as safetensors or GGUF",
        code="model-unreadable",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
