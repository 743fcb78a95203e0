# ruff: noqa: E402
"""One setting for all tests: offline, one thread, shapes checked while they run, tiny models as fixtures."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from jaxtyping import install_import_hook

# Before the first import of saeaudit, so that every module passes through it.
install_import_hook("saeaudit", "typecheck.check")

import pytest
import torch
from hypothesis import settings

# Machines are shared: how long an example takes says nothing.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

torch.set_num_threads(1)


def pytest_configure(config):
    for line in (
        # Third parties that warn about themselves; nothing of ours is hidden by these.
        "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",  # peft asks transformers for the old name
        "ignore:builtin type (SwigPy|swigvar).*:DeprecationWarning",
        "ignore:.*is not writable.*:UserWarning:torch",
        "ignore:torch.jit.*:DeprecationWarning",
    ):
        config.addinivalue_line("filterwarnings", line)


# The imports stay inside, so that tests without models do not wait for transformers.
@pytest.fixture
def tokenizer():
    from tiny import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture
def tiny_llama():
    from tiny import tiny_model

    return tiny_model("llama", 0)


@pytest.fixture
def tiny_loaded_model():
    """A `LoadedModel`: tiny Llama, seed 0."""
    from tiny import tiny_loaded

    return tiny_loaded("llama", 0)


@pytest.fixture
def tiny_pair():
    """A `Pair`: base, and a tuned side that differs from it by a rank-1 edit of one weight in block 1."""
    from saeaudit.models import Pair
    from tiny import tiny_loaded, tuned_copy

    base = tiny_loaded("llama", 0)
    return Pair(base=base, tuned=tuned_copy(base))
