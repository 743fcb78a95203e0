"""Loss recovered: how much of what a site carries a dictionary hands on, judged by the tuned model's predictions."""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.causal_results import Measure, Recovered
from saeaudit.dictionaries import Dictionary
from saeaudit.interventions import Change, ReplaceDifference
from saeaudit.metrics import SpliceReport, bootstrap_interval, splice_damage, weighted_mean
from saeaudit.models import Pair
from saeaudit.studies.isolation.causal.trial import Text, text_losses

# Nats a token; a share of less is a quotient of noise.
MIN_LOSS = 0.01


def estimated_difference(dictionary: Dictionary) -> Change:
    """Return the difference that a Diff-SAE or crosscoder reconstructs from the residuals of both sides."""

    def estimate(h0: Tensor, h1: Tensor) -> Tensor:
        x = h1 - h0 if dictionary.kind == "diff" else torch.stack([h0, h1], -2)
        rebuilt = dictionary.decode(dictionary.encode(x.flatten(end_dim=h1.dim() - 2)))
        difference = dictionary.difference(rebuilt)
        if difference is None:
            raise TypeError(f"a {dictionary.kind} dictionary reconstructs no difference")
        return difference.unflatten(0, h1.shape[:-1])

    return estimate


def difference_recovered(
    pair: Pair, site: str, estimate: Change, texts: Mapping[str, Sequence[Text]], *, seed: int
) -> list[Recovered]:
    """Return, a text, (L(h0) - L(h0 + estimate)) / (L(h0) - L(h1)) of the tuned model from the site on."""
    found, changes = [], [ReplaceDifference(), ReplaceDifference(estimate)]
    for name, documents in texts.items():
        if documents:
            losses = text_losses(pair, site, changes, documents)
            found.append(recovered(name, losses.clean, losses.edited[1], losses.edited[0], seed=seed))
    return found


def recovered(
    text: str,
    clean: Float[Tensor, " document"],
    spliced: Float[Tensor, " document"],
    floor: Float[Tensor, " document"],
    *,
    seed: int,
) -> Recovered:
    """Return the share recovered of mean losses a document; None where the floor costs less than `MIN_LOSS`."""

    def share(weights: Float[Tensor, "resample document"]) -> Float[Tensor, " resample"]:
        lost = weighted_mean(floor - clean, weights)
        return torch.where(lost >= MIN_LOSS, weighted_mean(floor - spliced, weights) / lost, torch.nan)

    value = float(share(torch.ones(1, len(clean), dtype=torch.float64))[0])
    interval = None
    if not math.isnan(value):
        interval = bootstrap_interval(share, torch.arange(len(clean)), seed=seed)
    return Recovered(
        text=text,
        target="difference",
        share=None if interval is None else Measure(value=value, interval=(interval.low, interval.high), n=len(clean)),
        clean=float(clean.mean()),
        spliced=float(spliced.mean()),
        floor=float(floor.mean()),
        n=len(clean),
    )


def sides_recovered(
    dictionary: Dictionary,
    pair: Pair,
    site: str,
    texts: Sequence[Text],
    *,
    mean: Float[Tensor, "*side d_model"],
    seed: int,
) -> list[Recovered]:
    """Return, a side, the loss recovered on ordinary text over the mean of what the dictionary reads."""
    models = {"base": pair.base.model, "tuned": pair.tuned.model}
    damage = splice_damage(dictionary, site, models, [text.ids for text in texts], mean=mean)
    found: list[Recovered] = []
    if (base := damage.get("base")) is not None:
        found.append(_of_side("base", base.result(seed=seed), len(texts)))
    if (tuned := damage.get("tuned")) is not None:
        found.append(_of_side("tuned", tuned.result(seed=seed), len(texts)))
    return found


def _of_side(side: str, report: SpliceReport, n: int) -> Recovered:
    share = report.ce_recovered_mean
    known = all(map(math.isfinite, (share.value, *share.interval)))
    return Recovered(
        text="ordinary text",
        target="base" if side == "base" else "tuned",
        share=Measure(value=share.value, interval=(share.interval.low, share.interval.high), n=n) if known else None,
        clean=report.ce_clean.value,
        spliced=report.ce_splice.value,
        floor=report.ce_mean.value,
        n=n,
    )
