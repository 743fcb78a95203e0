"""Scores of tokens and documents that need no label: how unlike the other half of the corpus a row is.

Every statistic of a row is computed by a fit on the half that its document is not in, and turned into
a = -log10 p by its place among the other half's values. Statistics are joined by the Cauchy combination (Liu and Xie,
2020), a document's score is the mean of its 4 largest a. A p here orders tokens; it is no error probability, since
neighbouring tokens depend on each other and nothing says what an unchanged model would show.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.audit.corpus_align import fit_trimmed_alignment
from saeaudit.metrics import fit_mahalanobis

TOP_TOKENS = 4
TAIL_SHARE = 0.01
CEILING = 100.0
N_BINS = 10


def swap_halves(
    half: Bool[Tensor, "row"], score: Callable[[Bool[Tensor, "row"], Bool[Tensor, "row"]], Float[Tensor, "scored"]]
) -> Float[Tensor, "row"]:
    """Return `score(fitted, scored)` for the rows of each half, fitted on the other one (fp64)."""
    out = torch.zeros(len(half), dtype=torch.float64)
    for scored in (half, ~half):
        out[scored] = score(~scored, scored).double()
    return out


def row_statistics(
    h0: Float[Tensor, "row d_model"], delta: Float[Tensor, "row d_model"], half: Bool[Tensor, "row"]
) -> dict[str, Float[Tensor, "row"]]:
    """Return the statistics of one site; higher is stranger.

    `aligned_residual` and `relative_mahalanobis` are squared distances of the aligned residual and of Δ, minus what the
    base's own distance M(h0) predicts: strange text is strange to both models. `base` is M(h0).
    """
    base = swap_halves(half, lambda fitted, scored: fit_mahalanobis(h0[fitted])(h0[scored]))
    aligned = swap_halves(
        half, lambda fitted, scored: fit_trimmed_alignment(h0[fitted], delta[fitted])(h0[scored], delta[scored])
    )
    plain = swap_halves(half, lambda fitted, scored: fit_mahalanobis(delta[fitted])(delta[scored]))
    return {
        "aligned_residual": beyond(aligned, base, half),
        "relative_mahalanobis": beyond(plain, base, half),
        "base": base,
    }


def beyond(value: Float[Tensor, "row"], base: Float[Tensor, "row"], half: Bool[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Return `value` minus its regression on `base` in the other half, the largest 1 % of `value` left out there."""

    def score(fitted: Tensor, scored: Tensor) -> Tensor:
        x, y = base[fitted], value[fitted]
        usual = y <= y.quantile(1 - TAIL_SHARE)
        x, y = x[usual], y[usual]
        centred = x - x.mean()
        slope = (centred * y).sum() / centred.square().sum().clamp(min=1e-300)
        # A negative slope would call rare text ordinary twice over.
        return value[scored] - slope.clamp(min=0) * base[scored]

    return swap_halves(half, score)


def adjusted_kl(
    kl: Float[Tensor, "row"], entropy: Float[Tensor, "row"], half: Bool[Tensor, "row"]
) -> Float[Tensor, "row"]:
    """Return KL(tuned ‖ base) minus its mean in the row's decile of base entropy in the other half (nats)."""

    def score(fitted: Tensor, scored: Tensor) -> Tensor:
        edges = entropy[fitted].double().quantile(torch.arange(1, N_BINS, dtype=torch.float64) / N_BINS)
        seen, asked = (torch.bucketize(entropy[rows].double(), edges) for rows in (fitted, scored))
        total = torch.zeros(N_BINS, dtype=torch.float64).index_add_(0, seen, kl[fitted].double())
        count = torch.zeros(N_BINS, dtype=torch.float64).index_add_(0, seen, torch.ones_like(seen).double())
        return kl[scored].double() - (total / count.clamp(min=1))[asked]

    return swap_halves(half, score)


def surprise(values: Float[Tensor, "row"], half: Bool[Tensor, "row"]) -> Float[Tensor, "row"]:
    """Return -log10 of the share of the other half's rows that are as large, 0 or more, at most 100.

    Beyond the other half's 99 % quantile the share is continued by an exponential tail with the same median excess, so
    that a row far outside the corpus is not tied with one just outside.
    """

    def score(fitted: Tensor, scored: Tensor) -> Tensor:
        reference, asked = values[fitted].sort().values, values[scored]
        n = len(reference)
        n_as_large = (n - torch.searchsorted(reference, asked, right=False)).double()
        ranked = -((1 + n_as_large) / (1 + n)).log10()
        edge = reference[max(0, math.ceil((1 - TAIL_SHARE) * n) - 1)]
        excess = reference[reference > edge] - edge
        if len(excess) < 2:
            return ranked
        per_decade = excess.median() * math.log(10) / math.log(2)
        continued = -math.log10(TAIL_SHARE) + (asked - edge) / per_decade
        return torch.where(asked > edge, continued, ranked).clamp(max=CEILING)

    return swap_halves(half, score)


def cauchy(surprises: Float[Tensor, "statistic row"]) -> Float[Tensor, "row"]:
    """Return the Cauchy combination of -log10 p values, again as -log10 p.

    >>> cauchy(torch.tensor([[2.0], [2.0]])).round(decimals=3).tolist()
    [2.0]
    """
    p = 10 ** -surprises.double()
    # tan(pi (1/2 - p)) = 1 / tan(pi p), which keeps its digits where p is tiny; p = 1 would be minus infinity.
    total = (1 / (math.pi * p.clamp(max=1 - 1e-6)).tan()).mean(0)
    return -(torch.atan2(torch.ones_like(total), total) / math.pi).log10()


def document_scores(
    tokens: Float[Tensor, "row"], document: Int[Tensor, "row"], n_documents: int
) -> Float[Tensor, "document"]:
    """Return the mean of each document's 4 largest token values; -inf where a document has no row."""
    out = torch.full((n_documents,), -math.inf, dtype=torch.float64)
    for i in range(n_documents):
        values = tokens[document == i]
        if len(values):
            out[i] = values.topk(min(TOP_TOKENS, len(values))).values.mean()
    return out


def ranks(scores: Float[Tensor, "document"]) -> Int[Tensor, "document"]:
    """Return 1 for the highest score, 2 for the next; the order decides between equal scores."""
    order = scores.argsort(descending=True, stable=True)
    out = torch.empty_like(order)
    out[order] = torch.arange(1, len(scores) + 1)
    return out
