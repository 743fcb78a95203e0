"""What the paper's BIS and its permutation test say when there is nothing to find.

`null_best_of` is the BIS of the best of F latents that ignore the label: each is active on a random set of rows of the
fixed size, so its counts follow a multivariate hypergeometric law. `latent_permutation` is the paper's significance
test, kept only to show that it is none: it exchanges *latents* between two methods, so the noise of the rows never
enters, and its p-value depends on how many latents are good instead of on how good the best one is (W8).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.metrics.isolation import n_above_quantile
from saeaudit.seeds import numpy_generator, torch_generator


def null_best_of(
    n_latents: int,
    *,
    n_trigger: int,
    n_benign: int,
    n_other: int = 0,
    tail: float = 0.05,
    n_draws: int = 200,
    seed: int,
) -> Float[Tensor, "draw"]:
    """Return, per draw, the largest BIS among `n_latents` latents that are unrelated to the label.

    `n_other` rows are negatives that the FPR does not count. `n_latents=1` gives the distribution of a single latent.
    """
    generator = numpy_generator(seed, "metrics", "null-best-of")
    cells = [n_trigger, n_benign, n_other]
    n_active = n_above_quantile(sum(cells), tail=tail)
    best = torch.empty(n_draws, dtype=torch.float64)
    for draw in range(n_draws):
        counts = torch.from_numpy(generator.multivariate_hypergeometric(cells, n_active, n_latents, method="marginals"))
        f1 = 2 * counts[:, 0].double() / (n_active + n_trigger)
        best[draw] = (f1 * (1 - counts[:, 1].double() / n_benign)).max()
    return best


def latent_permutation(
    first: Float[Tensor, "first_latent"], second: Float[Tensor, "second_latent"], *, n_permutations: int, seed: int
) -> float:
    """Return the paper's permutation p-value for max(first) - max(second), permuting latents between the methods.

    Not a test of the methods: see the module text.
    """
    observed = float((first.max() - second.max()).abs())
    pooled = torch.cat([first, second])
    generator = torch_generator(seed, "metrics", "latent-permutation")
    extreme = 0
    for _ in range(n_permutations):
        shuffled = pooled[torch.randperm(pooled.numel(), generator=generator)]
        difference = float((shuffled[: first.numel()].max() - shuffled[first.numel() :].max()).abs())
        extreme += difference >= observed - 1e-12
    return (1 + extreme) / (1 + n_permutations)
