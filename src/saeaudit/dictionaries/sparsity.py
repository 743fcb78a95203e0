"""Which latents are active: the training rule and the inference rule, as one small injected object."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.dictionaries.config import DictionaryConfig
from saeaudit.dictionaries.selection import Selection, select_largest


@runtime_checkable
class Sparsity(Protocol):
    """The rule that turns pre-activations into active places.

    `weights` are factors of the score a latent (None: all 1), as crosscoders weigh an activation by its decoder norm.
    """

    def select(self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None) -> Selection:
        """Return the places active in training; the rule may look at the whole batch."""
        ...

    def active(
        self, pre: Float[Tensor, "batch n"], weights: Float[Tensor, " n"] | None, threshold: Float[Tensor, ""]
    ) -> Bool[Tensor, "batch n"]:
        """Return the places active at inference; a row's answer depends on that row only."""
        ...


class BatchTopK:
    """The B*k largest scores of a batch in training, a fixed threshold at inference (arXiv 2412.06410, section 3)."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._last = 0.0

    def select(self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None) -> Selection:
        selection = select_largest(pre, len(pre) * self.k, weights=weights, hint=self._last)
        self._last = selection.smallest
        return selection

    def active(
        self, pre: Float[Tensor, "batch n"], weights: Float[Tensor, " n"] | None, threshold: Float[Tensor, ""]
    ) -> Bool[Tensor, "batch n"]:
        score = pre if weights is None else pre * weights
        return (score > threshold) & (pre > 0)


def sparsity_of(config: DictionaryConfig) -> Sparsity:
    """Return the rule that `config` names."""
    return {"batchtopk": BatchTopK}[config.sparsity](config.k)
