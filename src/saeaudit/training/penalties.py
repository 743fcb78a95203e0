"""Terms that ask for few active latents, where the rule does not fix their number.

`weight` is the lambda of the published loss |e|^2 + lambda S, S summed over latents and averaged over rows; it rises
from 0 over the first `warmup` of the run, because a penalty at full size before anything is learned kills latents.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.dictionaries import Forward, JumpRelu


@dataclass(frozen=True)
class L1:
    """S = sum of relu(z) times the decoder norm (Anthropic, April 2024); of the gate, where there is one (2404.16014).

    With gradient to the norms: without it a latent would escape by a small encoder and a large decoder row.

    Attributes:
        factors: factor of the weight, in runs of latents ((n, factor), ...); empty means 1.
        weighted: whether decoder norms count.
    """

    weight: float
    warmup: float
    factors: tuple[tuple[int, float], ...] = ()
    weighted: bool = True
    name: str = "l1"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        size = forward.z.relu()
        if self.weighted and not forward.coder.unit_norm:
            size = size * forward.coder.row_norms().index_select(0, forward.places.latents)
        if self.factors:
            runs, factors = zip(*self.factors, strict=True)
            of_latent = size.new_tensor(factors).repeat_interleave(torch.tensor(runs, device=size.device))
            size = size * of_latent[forward.places.latents]
        return _warm(self.weight, self.warmup, progress) * size.sum() / forward.target.numel()


@dataclass(frozen=True)
class FrozenGate:
    """FVU of the reconstruction by relu(gate) and a decoder without gradient: it alone trains the gate to detect.

    (arXiv 2404.16014, section 3.2, equation 8.)
    """

    name: str = "gate"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        error = forward.target - forward.decode_frozen(forward.z.relu())
        return error.square().sum() / forward.target.numel()


@dataclass(frozen=True)
class Step:
    """S = number of active latents, with the kernel's gradient (arXiv 2407.14435, equation 9)."""

    weight: float
    warmup: float
    name: str = "l0"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        return _warm(self.weight, self.warmup, progress) * mean_l0(forward) / forward.target.shape[1]


@dataclass(frozen=True)
class Quadratic:
    """The squared relative distance of the mean number of active latents from `k`, weighed against the FVU itself."""

    weight: float
    warmup: float
    k: int
    name: str = "l0"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        own = mean_l0(forward)
        # The square is not linear in the batch: its value and slope are those of the mean over all ranks.
        mean = own + (forward.grid.rows.mean(own.detach().clone()) - own.detach())
        return _warm(self.weight, self.warmup, progress) * (mean / self.k - 1).square()


@dataclass(frozen=True)
class Tanh:
    """S = sum of tanh(scale * f * decoder norm): an L1 that stops growing (Anthropic, January 2025 update)."""

    weight: float
    warmup: float
    scale: float
    name: str = "tanh"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        norms = forward.coder.row_norms().index_select(0, forward.places.latents)
        saturated = (self.scale * norms * forward.values).tanh().sum()
        return _warm(self.weight, self.warmup, progress) * saturated / forward.target.numel()


@dataclass(frozen=True)
class Revive:
    """S = sum of relu(theta - z) times the decoder norm over all latents: silent ones are pulled to their threshold.

    (Anthropic, January 2025 update.) It needs every pre-activation with gradient, so one more dense product and two for
    its gradient.
    """

    weight: float
    name: str = "revive"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        coder = forward.coder
        z = torch.addmm(coder.b_enc, forward.source, coder.W_enc.flatten(1).T)
        missing = (coder.cutoffs() - z).relu() @ coder.row_norms()
        return self.weight * missing.sum() / forward.target.numel()


def mean_l0(forward: Forward) -> Float[Tensor, ""]:
    """Return the active latents a row of a JumpReLU forward, with the kernel's gradient."""
    rule = forward.coder.sparsity
    assert isinstance(rule, JumpRelu), "only thresholds that are learned give a number of active latents a gradient"
    return rule.mean_l0(forward.z, forward.places)


def _warm(weight: float, warmup: float, progress: float) -> float:
    return weight * min(1.0, progress / warmup) if warmup > 0 else weight
