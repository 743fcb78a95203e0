"""Two terms, both named ghost gradients, that move dead ReLU latents. For comparison and reproduction."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.dictionaries import Forward


@dataclass(frozen=True)
class Ghost2024:
    """Dead latents, activated by exp(z), predict the residual e (Anthropic, January 2024 update).

    Their prediction g is rescaled row by row to half the norm of e, and the term |e - g|^2 to the size of the
    reconstruction term; neither scale has a gradient, nor has e.
    """

    name: str = "ghost"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        if not bool(dead.any()):
            return forward.target.new_zeros(())
        coder, e = forward.coder, forward.error.detach()
        z = torch.addmm(coder.b_enc[dead], forward.source, coder.W_enc.flatten(1)[dead].T)
        g = z.exp() @ coder.W_dec.flatten(1)[dead]
        half = torch.linalg.vector_norm(e, dim=1) / (2 * torch.linalg.vector_norm(g, dim=1).clamp_min(1e-12))
        missed = (e - g * half.detach().unsqueeze(1)).square().sum() / e.numel()
        rows = forward.grid.rows
        fvu, size = rows.mean(forward.fvu.detach().clone()), rows.mean(missed.detach().clone())
        return missed * (fvu / size.clamp_min(1e-30))


@dataclass(frozen=True)
class GhostDiffSae:
    """`-weight * mean relu(<w_j, e>)` over rows and dead latents, e without gradient.

    As in the public code of arXiv 2605.07324 (techsachinkr/diff-sae-backdoor-detection). It grows without bound with
    the encoder rows, so those must be normalised and the gradient clipped.
    """

    weight: float
    name: str = "ghost"

    def __call__(self, forward: Forward, dead: Bool[Tensor, " latent"], progress: float = 1.0) -> Float[Tensor, ""]:
        if not bool(dead.any()):
            return forward.target.new_zeros(())
        rows = forward.coder.W_enc.flatten(1)[dead]
        return -self.weight * (forward.error.detach() @ rows.T).relu().mean()
