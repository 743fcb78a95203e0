"""How sparse a code is and how its latents share the work: L0, density, dead latents, activation; streamed."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries import Code
from saeaudit.metrics.group_sums import N_GROUPS, GroupSums
from saeaudit.metrics.uncertainty import Estimate, wilson_columns

# Edges of the histogram of densities: half decades.
DENSITY_EDGES = tuple(10 ** (-k / 2) for k in range(12, -1, -1))


@dataclass(frozen=True)
class CodeReport:
    """Sparsity of a code by the inference rule.

    Attributes:
        l0: active latents a row.
        activation: mean value of an active entry, in scaled units, > 0.
        density: "latent", share of rows in which each latent fires.
        density_low, density_high: "latent", 95 % Wilson interval, as if rows were independent.
        latent_activation: "latent", mean value where the latent fires; NaN where it never did.
        dead_share: share of latents that never fired; NaN if `n_rows` are too few to tell (see `CodeStatistics`).
        histogram: number of latents by density in half decades from 1e-6 to 1, silent ones left out; a density below
            1e-6 counts in the first bin.
        template_share: "latent", share of its firings that lie on template tokens; NaN where it never fired or no rows
            were marked.
        n_rows: rows evaluated.
    """

    l0: Estimate
    activation: Estimate
    density: Float[Tensor, " latent"]
    density_low: Float[Tensor, " latent"]
    density_high: Float[Tensor, " latent"]
    latent_activation: Float[Tensor, " latent"]
    dead_share: float
    histogram: tuple[int, ...]
    template_share: Float[Tensor, " latent"]
    n_rows: int


class CodeStatistics:
    """Accumulate a `CodeReport`.

    `density_floor` is the density that a silent latent is to be told from: the share of dead latents is NaN below
    10 / density_floor rows, where one latent in e^10 of that density would still be silent by chance.
    """

    def __init__(
        self,
        n_latents: int,
        *,
        density_floor: float = 1e-3,
        n_groups: int = N_GROUPS,
        device: torch.device | str = "cpu",
    ) -> None:
        self._sums = GroupSums(n_groups, device=device, active=(), activation=())
        # Firings, sum of activations, firings on template tokens.
        self._latents = torch.zeros(3, n_latents, dtype=torch.float64, device=device)
        self._knows_template = False
        self._min_rows = 10 / density_floor

    def update(self, code: Code, group: Int[Tensor, " row"], on_template: Bool[Tensor, " row"] | None = None) -> None:
        """Add rows: the group of documents of each, and whether it is at a token of a chat template."""
        values, active = code.values.double(), code.values > 0
        marked = torch.zeros_like(group, dtype=torch.bool) if on_template is None else on_template
        self._knows_template |= on_template is not None
        self._sums.add(group, active=active.sum(1), activation=values.sum(1))
        entries = torch.stack([torch.ones_like(values), values, marked[:, None].expand_as(values).double()])[:, active]
        self._latents.index_add_(1, code.indices[active], entries)

    def merge(self, other: "CodeStatistics") -> None:
        """Add the rows that `other` has seen."""
        self._sums.merge(other._sums)
        self._latents += other._latents
        self._knows_template |= other._knows_template

    def result(self, *, n_resamples: int = 500, seed: int) -> CodeReport:
        """Return the report.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        numbers = self._sums.estimates(_statistic, n_resamples=n_resamples, seed=seed)
        fired, activation, on_template = self._latents.cpu()
        n = self._sums.n_rows
        density = fired / n
        low, high = wilson_columns(fired, n)
        edges = torch.tensor(DENSITY_EDGES[1:-1], dtype=torch.float64)
        bins = torch.bucketize(density[fired > 0], edges, right=True)
        return CodeReport(
            **numbers,
            density=density,
            density_low=low,
            density_high=high,
            latent_activation=activation / fired,
            dead_share=float((fired == 0).double().mean()) if n >= self._min_rows else float("nan"),
            histogram=tuple(torch.bincount(bins, minlength=len(DENSITY_EDGES) - 1).tolist()),
            template_share=on_template / fired if self._knows_template else torch.full_like(fired, torch.nan),
            n_rows=n,
        )


def _statistic(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"l0": sums["active"] / sums["rows"], "activation": sums["activation"] / sums["active"]}
