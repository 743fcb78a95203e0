"""The identity of a model, recorded beside every number made from it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

SourceKind = Literal["hub", "directory", "adapter", "gguf", "embedded"]


@dataclass(frozen=True)
class ModelCard:
    """What was loaded: source, architecture, sizes and the hash of the weights in memory order of their names."""

    source: str
    kind: SourceKind
    architecture: str
    n_layers: int
    d_model: int
    n_vocab: int
    dtype: str
    weights_sha256: str
    quantisation: str | None = None
    adapter_sha256: str | None = None
    revision: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON values."""
        return asdict(self)
