"""What a source string means, and a local directory or file for it; nothing is parsed or executed here.

Order of the questions: the word "embedded"; a path that exists; something that looks like a path (an error); else an id
on the Hugging Face hub, `organisation/name` or `organisation/name@revision`, whose files are taken from the cache or
downloaded. Only safetensors, tokenizer and JSON files are ever downloaded.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeaudit.cards import SourceKind
from saeaudit.errors import ModelError
from saeaudit.models.embedded import EMBEDDED, embedded_directory

ADAPTER_CONFIG = "adapter_config.json"
MODEL_CONFIG = "config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[\w.\-]+)?(@[\w.\-/]+)?")
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
_UNWANTED = ["*/*", "consolidated*"]
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


@dataclass(frozen=True)
class Source:
    """A source string, what it is, and where its files lie (`path`: a directory, or the file for "gguf")."""

    text: str
    kind: SourceKind
    path: Path
    revision: str | None = None


def open_source(text: str) -> Source:
    """Return what `text` names.

    Raises:
        ModelError: a path that does not exist (`path-missing`), a directory without a model (`not-a-model`), a
            checkpoint of pickles (`unsafe-weights`), a hub id that cannot be had (`hub-unavailable`).
        MissingExtra: "embedded" without the package that carries it.
    """
    if text == EMBEDDED:
        return Source(text, "embedded", embedded_directory())
    path = Path(text).expanduser()
    if text and path.exists():
        return _local(text, path)
    if not _HUB_ID.fullmatch(text) or text.endswith(".gguf"):
        raise ModelError(
            f"{text!r} was asked for, but there is no such file or directory, and it is not a hub id "
            "(organisation/name); check the path, or use 'embedded' for the built-in model",
            code="path-missing",
        )
    name, _, revision = text.partition("@")
    directory = _download(name, revision or None)
    local = _local(text, directory)
    kind = local.kind if local.kind == "adapter" else "hub"
    return Source(text, kind, directory, revision=directory.name)


def require_safetensors(directory: Path, text: str) -> None:
    """Raise if a checkpoint directory holds no safetensors weights.

    Raises:
        ModelError: only pickles (`unsafe-weights`), with how to convert them, or no weights at all (`not-a-model`).
    """
    if any(directory.glob("*.safetensors")):
        return
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
    if not pickles:
        raise ModelError(
            f"{text}: {directory} holds no weights in safetensors format; found: {_listing(directory)}. "
            "A checkpoint that exists only as pickle must be converted first: "
            "AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) in a sandbox",
            code="not-a-model",
        )
    raise ModelError(
        f"{text}: the weights exist only as pickle ({', '.join(pickles[:3])}), which can run code when it is opened, "
        "so it is refused. If you trust it, convert it in a sandbox: AutoModelForCausalLM.from_pretrained(directory)"
        ".save_pretrained(new_directory) writes safetensors; then pass new_directory",
        code="unsafe-weights",
    )


def read_json_object(text: str, path: Path, *, code: str) -> dict[str, Any]:
    """Return the config `path` of the source `text`; raise `bad_config` unless it is a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise bad_config(text, path, f"cannot be read as JSON: {error}", code=code) from None
    if not isinstance(value, dict):
        raise bad_config(text, path, f"should hold a JSON object, found {type(value).__name__}", code=code)
    return value


def bad_config(text: str, path: Path, problem: str, *, code: str) -> ModelError:
    """Return the error that the config `path` of the source `text` is of no use."""
    return ModelError(
        f"{text}: {path} {problem}; take {path.name} from where it came from, or save it again with save_pretrained",
        code=code,
    )


def _local(text: str, path: Path) -> Source:
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"{text!r} is a file, but neither a *.gguf file nor a directory; pass the directory that holds "
                f"{MODEL_CONFIG} or {ADAPTER_CONFIG}",
                code="not-a-model",
            )
        return Source(text, "gguf", path)
    if (path / ADAPTER_CONFIG).is_file():
        return Source(text, "adapter", path)  # `read_adapter_config` looks for its weights
    if (path / MODEL_CONFIG).is_file():
        require_safetensors(path, text)
        return Source(text, "directory", path)
    raise ModelError(
        f"{text!r} is not a model: it has neither {MODEL_CONFIG} (a checkpoint) nor {ADAPTER_CONFIG} (a PEFT adapter); "
        f"found: {_listing(path)}. Pass the directory that save_pretrained wrote",
        code="not-a-model",
    )


def _listing(directory: Path) -> str:
    names = sorted(p.name for p in directory.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "nothing"


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download, try_to_load_from_cache

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except Exception as error:  # the hub client raises errors of several libraries that share no root
        # A cache that transformers filled may lack files that we would have fetched but do not need.
        cached = try_to_load_from_cache(name, MODEL_CONFIG, revision=revision)
        if isinstance(cached, str):
            return Path(cached).parent
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{name!r} is not a local path and cannot be had from the Hugging Face hub: {reason} "
            "Check the id and the network (HF_HUB_OFFLINE=1 allows cached models only), pass a local directory, "
            "or use 'embedded' for the built-in model",
            code="hub-unavailable",
        ) from None
