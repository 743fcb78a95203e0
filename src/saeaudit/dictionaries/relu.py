"""Every positive latent is active; sparsity comes from an L1 term of the loss (Anthropic, April 2024 update)."""

from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries.selection import flat_above
from saeaudit.dictionaries.sparsity import Chosen, Sparsity
from saeaudit.distributed import WHOLE, Grid


class Relu(Sparsity):
    """f = max(z, 0)."""

    def select(
        self, pre: Float[Tensor, "batch latent"], weights: Float[Tensor, " latent"] | None, grid: Grid = WHOLE
    ) -> Chosen:
        return Chosen(flat_above(pre, 0.0))
