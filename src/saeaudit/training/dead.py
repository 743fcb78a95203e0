"""Latents that stopped firing, counted in rows seen and not in steps."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeaudit.distributed import ALONE, Ranks

_MAX_ROWS = 10_000_000
_SHARE = 0.05


def dead_after_rows(n_rows_of_run: int) -> int:
    """Return the rows without firing after which a latent is dead: 10 million, or 5 % of a shorter run.

    >>> dead_after_rows(1_000_000), dead_after_rows(10**12)
    (50000, 10000000)
    """
    return max(1, min(_MAX_ROWS, int(_SHARE * n_rows_of_run)))


class FiringRecord:
    """When each latent last fired, in rows of the run; all count as fired at the start."""

    def __init__(self, n_latents: int, *, device: torch.device | None = None) -> None:
        self.n_rows = 0
        self.last_fired: Int[Tensor, " latent"] = torch.zeros(n_latents, dtype=torch.int64, device=device)

    def update(
        self, latents: Int[Tensor, " nnz"], active: Bool[Tensor, " nnz"], n_rows: int, ranks: Ranks = ALONE
    ) -> None:
        """Add a batch of `n_rows` rows in which those of `latents` fired that are `active` (repeats allowed).

        Ranks add equally many rows each; a latent has fired if it did on any of them.
        """
        self.n_rows += n_rows * ranks.size
        # What is not active goes to a place of its own: to leave it out, the host would have to wait for a count.
        nowhere = len(self.last_fired)
        fired = self.last_fired.new_zeros(nowhere + 1, dtype=torch.uint8)
        fired[torch.where(active, latents, nowhere)] = 1
        self.last_fired.masked_fill_(ranks.max(fired[:nowhere]).bool(), self.n_rows)

    def dead(self, after: int) -> Bool[Tensor, " latent"]:
        """Return which latents have not fired for more than `after` rows."""
        return self.n_rows - self.last_fired > after
