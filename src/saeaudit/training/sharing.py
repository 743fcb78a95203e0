"""A training step divided among the ranks of a grid: who takes which rows."""

from jaxtyping import Float
from torch import Tensor

from saeaudit.distributed import Ranks
from saeaudit.errors import ConfigError


def own_rows(x: Float[Tensor, "batch *axes"], ranks: Ranks) -> Float[Tensor, "part *axes"]:
    """Return the rows of a batch that belong to this rank; all have equally many, and in the order of the ranks.

    Raises:
        ConfigError: the rows cannot be divided equally (code `batch-not-divisible`).
    """
    if len(x) % ranks.size:
        raise ConfigError(
            f"a batch of {len(x)} rows cannot be divided among {ranks.size} processes; choose a batch size that is a "
            f"multiple of {ranks.size}",
            code="batch-not-divisible",
        )
    n = len(x) // ranks.size
    return x[ranks.rank * n : (ranks.rank + 1) * n]
