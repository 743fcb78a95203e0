import pytest
import torch

from saeaudit.activations import Document, store, tokenise
from tiny import TEXTS, tiny_tokenizer


def documents(n=13, *, skip_first=4, max_length=48):
    """Texts of 1 to 48 tokens, in no order of length."""
    made = []
    for i in range(n):
        text = " ".join(TEXTS[(i + k) % len(TEXTS)] for k in range(1 + i * 5 % 3))
        made.append(Document(f"d{i}", text[: 12 + 37 * i % 150], role="corpus"))
    return tokenise(tiny_tokenizer(), made, max_length=max_length, skip_first=skip_first, too_long="truncate")


@pytest.fixture
def tokens():
    return documents()


@pytest.fixture
def few_tokens():
    return documents(6)


@pytest.fixture
def exact(monkeypatch):
    """Stores in fp32: bf16 on disk would hide small differences behind its rounding."""
    monkeypatch.setattr(store, "STORED", torch.float32)
