"""What the loaders return: model, tokenizer and card together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from saeaudit.cards import ModelCard, SourceKind
from saeaudit.models.weights import weights_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode whose parameters need no gradient, its tokenizer, its identity, and what to warn about."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    card: ModelCard
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """Base (side 0) and tuned model (side 1) that were checked to be comparable.

    Attributes:
        base: Side 0.
        tuned: Side 1.
        extra_tokens: Tokens that only the tuned tokenizer has; the base has no row for them.
    """

    base: LoadedModel
    tuned: LoadedModel
    extra_tokens: tuple[str, ...] = ()


def make_card(
    model: "PreTrainedModel",
    *,
    source: str,
    kind: SourceKind,
    weights: str | None = None,
    quantisation: str | None = None,
    adapter_sha256: str | None = None,
    revision: str | None = None,
) -> ModelCard:
    """Return the card of `model`; `weights` is its hash where the caller has it (else it is computed here)."""
    config = model.config.get_text_config()
    return ModelCard(
        source=source,
        kind=kind,
        architecture=config.model_type,
        n_layers=config.num_hidden_layers,
        d_model=config.hidden_size,
        n_vocab=config.vocab_size,
        dtype=str(model.dtype).removeprefix("torch."),
        weights_sha256=weights_sha256(model.state_dict()) if weights is None else weights,
        quantisation=quantisation,
        adapter_sha256=adapter_sha256,
        revision=revision,
    )
