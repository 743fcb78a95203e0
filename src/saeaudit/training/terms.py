"""Loss terms: small callables on a training forward; the loop adds them up.

A term has a name for the log. It returns an already weighted scalar, in units of the FVU: a published loss
|e|^2 + lambda S is divided by the width, in which the scaled input has that mean square.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.dictionaries import Forward


@runtime_checkable
class Term(Protocol):
    """One summand of the loss."""

    @property
    def name(self) -> str: ...

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        """Return the weighted term.

        Args:
            forward: the training forward of a batch.
            dead: latents that stopped firing.
            progress: share of the run that this step completes, in (0, 1].
        """
        ...


@dataclass(frozen=True)
class Reconstruction:
    """Squared error over the variance of the harvest statistics: 0 is perfect, 1 is predicting the mean.

    Attributes:
        measure: "fvu", or what some recipes train: the mean squared norm of the error ("mse") or its mean norm
            ("l2norm"), scaled units.
    """

    measure: Literal["fvu", "mse", "l2norm"] = "fvu"
    name: str = "recon"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        if self.measure == "fvu":
            return forward.fvu
        if self.measure == "mse":
            return forward.error.square().sum(1).mean()
        return torch.linalg.vector_norm(forward.error, dim=1).mean()


@dataclass(frozen=True)
class NestedReconstruction:
    """Mean FVU over nested prefixes of the latents (Matryoshka, arXiv 2503.17547, section 3).

    One decode gives what each group of latents adds; the cumulative sum over groups gives every prefix. A group is thus
    trained by its own prefix and all wider ones.

    Attributes:
        prefixes: ascending widths, the last one all latents.
    """

    prefixes: tuple[int, ...]
    name: str = "recon"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        recon = forward.decode_groups(self.prefixes).cumsum(1) + forward.coder.b_dec.flatten()
        return (forward.target.unsqueeze(1) - recon).square().sum() / recon.numel()


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

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        rows = forward.grid.rows
        latents = dead.nonzero().squeeze(1)  # the host waits for their number, and so knows it
        n_dead = int(forward.grid.latents.sum(torch.tensor(len(latents))))
        most = self.k or max(1, forward.target.shape[1] // 2)
        if self.alpha == 0 or n_dead == 0:
            return forward.target.new_zeros(())
        residual = forward.error.detach()
        variance = rows.mean((residual - rows.mean(residual.mean(0))).square().sum())
        k = min(most, n_dead)
        missed = (residual - forward.decode_largest(latents, k)).square().sum()
        weight = self.alpha * min(1.0, n_dead / most)
        return weight * torch.where(variance > 0, missed / variance.clamp_min(1e-30), 0.0)
