"""Controls of latent scaling: what β and its ratios look like where there is nothing to find.

Shuffled rows keep each latent's activations and break their tie to the activations of the model. Random directions of
equal norm keep the ties and change what is looked for. Latents of the same density keep both and change the claim.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries import Code
from saeaudit.metrics.group_sums import N_GROUPS
from saeaudit.metrics.latent_scaling import LatentScaling
from saeaudit.seeds import torch_generator

# A β from fewer firings is noise.
MIN_FIRINGS = 100


class ControlledScaling:
    """`LatentScaling` of the same rows three times: as they are, with rows shuffled, and along random directions.

    Controls keep no groups, because they get no intervals. Rows are shuffled within a batch, so batches should be
    random rows of many documents.

    Attributes:
        real, shuffled, random: the three accumulators.
    """

    def __init__(
        self,
        direction: Float[Tensor, "latent d_model"],
        targets: Sequence[str],
        *,
        own: Mapping[str, Float[Tensor, "latent d_model"]],
        centred: Sequence[str] = (),
        n_groups: int = N_GROUPS,
        seed: int,
    ) -> None:
        noise = torch.randn(direction.shape, generator=torch_generator(seed, "scaling", "directions"))
        noise = noise.to(direction.device)
        norm = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        other = (torch.nn.functional.normalize(noise, dim=1) * norm).to(direction.dtype)
        self.real = LatentScaling(direction, targets, own=own, centred=centred, n_groups=n_groups)
        self.shuffled = LatentScaling(direction, targets, own=own, centred=centred, n_groups=1)
        self.random = LatentScaling(other, targets, own=own, centred=centred, n_groups=1)
        self._generator = torch_generator(seed, "scaling", "shuffle")

    def update(
        self, code: Code, targets: Mapping[str, Float[Tensor, "row d_model"]], group: Int[Tensor, " row"]
    ) -> None:
        """Add rows to all three."""
        order = torch.randperm(len(group), generator=self._generator).to(group.device)
        one = torch.zeros_like(group)
        self.real.update(code, targets, group)
        self.shuffled.update(code, targets, one, regressor=Code(code.values[order], code.indices[order]))
        self.random.update(code, targets, one)

    def merge(self, other: "ControlledScaling") -> None:
        """Add the rows that `other` has seen; it must have been made with the same arguments."""
        self.real.merge(other.real)
        self.shuffled.merge(other.shuffled)
        self.random.merge(other.random)


def density_matched(
    latents: Int[Tensor, " n"], pool: Int[Tensor, " pool"], firings: Float[Tensor, " latent"]
) -> Int[Tensor, " matched"]:
    """Return for each of `latents` the one of `pool` that fires most nearly as often, each used once.

    Nearness is by ratio. The result is shorter where the pool runs out; the most frequent latents choose first, because
    few others are as frequent.
    """
    free = {int(j): float(firings[j]) for j in pool}
    chosen = []
    for j in sorted(latents.tolist(), key=lambda j: (-float(firings[j]), j)):
        if not free:
            break
        wanted = float(firings[j])
        nearest = min(free, key=lambda i: (max(free[i], wanted) / min(free[i], wanted), i))
        chosen.append(nearest)
        del free[nearest]
    return torch.tensor(chosen, dtype=torch.int64)


def median(values: Float[Tensor, " n"]) -> float:
    """Return the median of the finite values, the mean of the middle two; NaN if there are none."""
    finite = values[values.isfinite()].double()
    return float(finite.quantile(0.5)) if len(finite) else float("nan")
