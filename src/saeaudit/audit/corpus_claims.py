"""Findings of an audit without examples: how strange the top documents are, beside what the base alone would rank."""

import torch
from torch import Tensor

from saeaudit.audit.corpus_continue import N_NEW_TOKENS, ContinuationRecord
from saeaudit.audit.corpus_latents import N_RANDOM_SETS, LatentRecord, top_count
from saeaudit.audit.corpus_scores import CorpusScores
from saeaudit.findings import Control, Finding
from saeaudit.metrics import bootstrap_interval, wilson

UNIT = "-log10 of the share of tokens in the other half as strange (mean of a document's 4 strangest)"


def is_rare_text(document: int, rank: list[int], base_rank: list[int]) -> bool:
    """Return whether a document is among the top ones of both the ranking and its base-only twin."""
    k = top_count(len(rank))
    return rank[document] <= k and base_rank[document] <= k


def top_score(scores: list[float], k: int) -> float:
    """Return the mean of the `k` highest scores."""
    return float(torch.tensor(scores, dtype=torch.float64).topk(k).values.mean())


def corpus_findings(
    scores: CorpusScores, latents: LatentRecord | None, continuations: ContinuationRecord, *, seed: int
) -> list[Finding]:
    """Return what can be said about documents and latents, each with a control that does not know the tuned model."""
    n = len(scores.score)
    findings = [_top(scores, top_count(n), seed), _overlap(scores, top_count(n)), _split_half(scores)]
    if latents is not None and latents.latents:
        findings.append(_latent(latents, top_count(n)))
    if continuations.random:
        findings.append(_continuations(continuations))
    return findings


def _top(scores: CorpusScores, k: int, seed: int) -> Finding:
    return Finding(
        id="corpus.top-score",
        claim=f"the {k} top documents of the corpus are this unlike the rest; anomalous documents, no claim about the "
        "model",
        value=top_score(scores.score, k),
        unit=UNIT,
        n=len(scores.score),
        interval=_top_interval(scores.score, k, seed),
        control=Control(
            name=f"base-only twin: the {k} documents most unlike the rest for the base alone",
            value=top_score(scores.base_only, k),
            interval=_top_interval(scores.base_only, k, seed),
            n=len(scores.base_only),
        ),
        evidence="corpus",
    )


def _top_interval(scores: list[float], k: int, seed: int) -> tuple[float, float]:
    """Return the 95 % interval of the mean of the k highest scores, resampling documents."""
    values, order = torch.tensor(scores, dtype=torch.float64).sort(descending=True)

    def statistic(weights: Tensor) -> Tensor:
        drawn = weights[:, order]
        before = drawn.cumsum(1) - drawn
        taken = (k - before).clamp(min=0).minimum(drawn)
        return taken @ values / k

    interval = bootstrap_interval(statistic, torch.arange(len(values)), seed=seed)
    value = float(values[:k].mean())
    return min(interval.low, value), max(interval.high, value)


def _overlap(scores: CorpusScores, k: int) -> Finding:
    rank, base_rank = scores.rank(), scores.base_rank()
    n_rare = sum(is_rare_text(i, rank, base_rank) for i in range(len(rank)))
    return Finding(
        id="corpus.rare-text",
        claim="share of the top documents that are also top documents for the base alone: rare text, which needs no "
        "change of the model to stand out",
        value=n_rare / k,
        unit="share of the top documents",
        n=k,
        interval=_share_interval(n_rare, k),
        control=Control(name="overlap of two unrelated rankings", value=k / len(rank), n=len(rank)),
        evidence="corpus",
    )


def _split_half(scores: CorpusScores) -> Finding:
    return Finding(
        id="corpus.split-half",
        claim="a document's rank by its odd tokens agrees this far with its rank by its even tokens",
        value=scores.split_half.value,
        unit="rank correlation",
        n=len(scores.score),
        interval=scores.split_half.interval,
        control=Control(
            name="base-only twin",
            value=scores.base_split_half.value,
            interval=scores.base_split_half.interval,
            n=len(scores.score),
        ),
    )


def _latent(latents: LatentRecord, k: int) -> Finding:
    best = latents.latents[0]
    return Finding(
        id="corpus.latent-share",
        claim=f"share of the activity of latent {best.latent} at {best.site} that lies in the {k} top documents, "
        "which were ranked by the same differences, so this says where latents fire and not that a behaviour exists. "
        "The AUROC of each latent below is that of top documents against the rest",
        value=latents.share,
        unit="share of activity",
        n=latents.n_documents,
        interval=latents.share_interval,
        control=Control(
            name=f"the latent ranked first by {k} random documents",
            value=latents.random_share,
            interval=latents.random_interval,
            n=N_RANDOM_SETS,
        ),
        evidence="latents",
    )


def _continuations(continuations: ContinuationRecord) -> Finding:
    top, random = continuations.top, continuations.random
    n_changed, n_control = continuations.n_changed(top), continuations.n_changed(random)
    return Finding(
        id="corpus.continuations-changed",
        claim=f"share of the top documents after which the two models write different text (greedy, {N_NEW_TOKENS} "
        "tokens); tuning of any kind changes continuations",
        value=n_changed / len(top),
        unit="share of documents",
        n=len(top),
        interval=_share_interval(n_changed, len(top)),
        control=Control(
            name="random other documents",
            value=n_control / len(random),
            interval=_share_interval(n_control, len(random)),
            n=len(random),
        ),
        evidence="corpus",
    )


def _share_interval(successes: int, n: int) -> tuple[float, float]:
    found = wilson(successes, n)
    return found.low, found.high
