"""Loss terms: small callables on a training forward; the loop adds them up.

A term has a name for the log. It returns an already weighted scalar.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.dictionaries import DictionaryConfig, Forward


@runtime_checkable
class Term(Protocol):
    """One summand of the loss."""

    @property
    def name(self) -> str: ...

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"]) -> Float[Tensor, ""]:
        """Return the weighted term; `dead` marks latents that stopped firing."""
        ...


@dataclass(frozen=True)
class Reconstruction:
    """Squared error over the variance of the harvest statistics: 0 is perfect, 1 is predicting the mean."""

    name: str = "recon"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"]) -> Float[Tensor, ""]:
        return forward.fvu


@dataclass(frozen=True)
class AuxK:
    """Let dead latents explain what the others miss (arXiv 2406.04093, appendix A.2).

    The residual e (no gradient) is predicted, without bias, by the `k` dead latents with the largest pre-activations
    of each row; the term is `alpha * |e - e_hat|^2 / |e - mean e|^2`, scaled down while fewer than `k` are dead. It is
    0 when none is dead or the residual is constant.

    Attributes:
        alpha: weight.
        k: dead latents used a row; None means half of the input width.
    """

    alpha: float = 1 / 32
    k: int | None = None
    name: str = "auxk"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"]) -> Float[Tensor, ""]:
        latents = dead.nonzero().squeeze(1)
        most = self.k or max(1, forward.target.shape[1] // 2)
        if self.alpha == 0 or len(latents) == 0:
            return forward.target.new_zeros(())
        residual = forward.error.detach()
        variance = (residual - residual.mean(0)).square().sum()
        k = min(most, len(latents))
        chosen = latents[forward.pre[:, latents].topk(k, dim=1, sorted=False).indices]
        missed = (residual - forward.decode_rows(chosen)).square().sum()
        weight = self.alpha * min(1.0, len(latents) / most)
        return weight * torch.where(variance > 0, missed / variance.clamp_min(1e-30), 0.0)


def terms_for(config: DictionaryConfig) -> tuple[Term, ...]:
    """Return the loss terms that a dictionary's config asks for."""
    revive = (AuxK(alpha=config.aux_alpha, k=config.aux_k),) if config.aux_alpha > 0 else ()
    return (Reconstruction(), *revive)
