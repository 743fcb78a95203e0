"""What the decoder rows of a dictionary say alone: how a latent's norm divides between the sides, and near-copies.

Norms are cheap and misleading: an L1 crosscoder shrinks the smaller of two rows to nothing (Minder et al. 2025,
arXiv 2504.02922), so a norm that says "tuned only" is a question, which latent scaling answers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from saeaudit.dictionaries import Code, Crosscoder, Dictionary
from saeaudit.errors import EvidenceError

# Bins of the relative norm: base only, shared, tuned only.
BASE_ONLY, SHARED, TUNED_ONLY = 0.1, (0.4, 0.6), 0.9

_CHUNK_BYTES = 64 << 20


class RelativeNorms(NamedTuple):
    """`delta_norm` of each latent in scaled units, which classification uses, and in raw units."""

    scaled: Float[Tensor, " latent"]
    raw: Float[Tensor, " latent"]


@dataclass(frozen=True)
class NormBins:
    """How many of `n` latents have a relative norm of at most 0.1, of 0.4 to 0.6, and of at least 0.9."""

    n: int
    base_only: int
    shared: int
    tuned_only: int


def norm_bins(norm: Float[Tensor, " latent"]) -> NormBins:
    """Count relative norms by bin. Few are exactly 0 or 1 without an L1 penalty: compare ranks, not empty bins.

    >>> norm_bins(torch.tensor([0.0, 0.1, 0.3, 0.5, 0.87, 1.0]))
    NormBins(n=6, base_only=2, shared=1, tuned_only=1)
    """
    shared = (norm >= SHARED[0]) & (norm <= SHARED[1])
    return NormBins(len(norm), int((norm <= BASE_ONLY).sum()), int(shared.sum()), int((norm >= TUNED_ONLY).sum()))


def relative_norms(dictionary: Dictionary) -> RelativeNorms:
    """Return the relative decoder norms of a crosscoder.

    Raises:
        EvidenceError: the dictionary has one decoder row a latent, or its training left the norms undetermined (code
            `undefined-metric`).
    """
    if not isinstance(dictionary, Crosscoder):
        raise EvidenceError(
            f"a relative norm was asked of a {dictionary.kind} dictionary, whose latents have one decoder row and not "
            "one a side; use latent scaling, which compares the sides by their activations",
            code="undefined-metric",
        )
    norms = dictionary.decoder_norms()
    return RelativeNorms(delta_norm(norms.cpu()), delta_norm((norms * dictionary.coder.scale).cpu()))


def delta_norm(norms: Float[Tensor, "latent 2"]) -> Float[Tensor, " latent"]:
    """Return ½(1 + (‖d¹‖ - ‖d⁰‖) / max(‖d¹‖, ‖d⁰‖)): 0 is base only, ½ shared, 1 tuned only; NaN if both are 0.

    The column `dec_norm_diff` of the tables published with arXiv 2504.02922 is 1 - this.

    >>> delta_norm(torch.tensor([[0.0, 2.0], [1.0, 1.0], [2.0, 1.0]])).tolist()
    [1.0, 0.5, 0.25]
    """
    base, tuned = norms.double().unbind(1)
    return (1 + (tuned - base) / torch.maximum(tuned, base)) / 2


def delta_norm_of_share(share: Float[Tensor, " latent"]) -> Float[Tensor, " latent"]:
    """Return `delta_norm` from r = ‖d¹‖ / (‖d⁰‖ + ‖d¹‖), as other tools report it; 0, ½ and 1 stay what they are.

    >>> delta_norm_of_share(torch.tensor([0.0, 0.5, 0.75, 1.0])).tolist()
    [0.0, 0.5, 0.8333333333333333, 1.0]
    """
    share = share.double()
    return (1 + (2 * share - 1) / torch.maximum(share, 1 - share)) / 2


def largest_cosine(W_dec: Float[Tensor, "latent ..."]) -> Float[Tensor, " latent"]:
    """Return the largest cosine of each decoder row (all sides as one vector) with another row: 1 is a copy.

    NaN if there is one latent only.
    """
    rows = normalize(W_dec.flatten(1).float(), dim=1)
    if len(rows) < 2:
        return torch.full((len(rows),), torch.nan)
    n = max(1, _CHUNK_BYTES // (4 * len(rows)))
    found = []
    for start in range(0, len(rows), n):
        cosine = rows[start : start + n] @ rows.T
        own = torch.arange(len(cosine), device=rows.device)
        cosine[own, start + own] = -torch.inf
        found.append(cosine.amax(1))
    return torch.cat(found).cpu()


def decoder_bias(dictionary: Dictionary) -> Float[Tensor, "*side d_model"]:
    """Return the raw reconstruction of a row in which nothing fires."""
    value = dictionary.coder.shift.new_zeros(1, 1)
    silent = Code(value, torch.zeros_like(value, dtype=torch.int64))
    return dictionary.decode(silent)[0].detach()
