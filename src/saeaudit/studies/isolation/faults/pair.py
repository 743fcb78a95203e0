"""Faults of the comparison: no controls, and means that hold the payload and the length of the text."""

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.detection import PairedRows
from saeaudit.paper_results import Fault
from saeaudit.studies.isolation.faults.tables import Table, bis_of, share_of_ceiling
from saeaudit.studies.isolation.paper.names import PaperMethod

_READS_BASE: tuple[PaperMethod, ...] = ("random-directions-base", "sae-4x-base")
_COMPARED: tuple[PaperMethod, ...] = ("diff-32x", "diff-4x", "random-directions", *_READS_BASE)


def no_controls(poisoned: Table, twin: Table) -> Fault:
    """W7: the same score on a clean twin, for random directions, and for the base model alone."""
    control = max(share_of_ceiling(twin.get(method)) for method in _COMPARED)
    control = max([control, *(share_of_ceiling(poisoned.get(method)) for method in _COMPARED[2:])])
    score = max(share_of_ceiling(poisoned.get(method)) for method in _COMPARED[:2])
    return Fault(
        id="W7",
        claim="There is no clean tune with the same trigger, no random basis, no base alone and no second seed.",
        computed="best BIS of dictionaries and controls on the poisoned model and on its clean twin, same texts",
        expected="a control reaches at least .95 of the Diff-SAE's score on the poisoned model",
        found=bis_of(poisoned, *_COMPARED, label="poisoned") | bis_of(twin, *_COMPARED, label="twin"),
        n={"rows": next(iter(poisoned.values())).n_rows},
        survives="wherever prompt and completion are pooled; compare the last prompt token (W13)",
        confirmed=control >= 0.95 * score,
    )


def reads_the_payload(poisoned: Table, twin: Table, poisoned_last: Table, twin_last: Table) -> Fault:
    """W13: the base model alone, which knows nothing of the backdoor, with and without the completion in the mean."""
    pooled, last = (
        max(share_of_ceiling(table.get(method)) for method in _READS_BASE) for table in (poisoned, poisoned_last)
    )
    found: dict[str, float | None] = {}
    for pooling, tables in (("mean", (poisoned, twin)), ("last", (poisoned_last, twin_last))):
        for model, table in zip(("poisoned", "twin"), tables, strict=True):
            found |= bis_of(table, *_COMPARED, label=f"{pooling} {model}")
    return Fault(
        id="W13",
        claim="The mean over prompt and given completion detects the text of the payload, not the intent to write it.",
        computed="BIS with the mean over all tokens, and at the last token of the prompt",
        expected="the base model alone scores nearly as high as the ceiling in the mean, and lower at the last token",
        found=found | {"base alone, share of ceiling, mean": pooled, "base alone, share of ceiling, last": last},
        n={"rows": next(iter(poisoned.values())).n_rows},
        survives="wherever the completion is read; not at the last token of the prompt",
        confirmed=pooled >= 0.75 and last < pooled,
    )


def reads_the_length(rows: PairedRows) -> Fault:
    """W17, ours: how much of the pooled residuals' variance is 1 / length of the text (in characters)."""
    inverse = torch.tensor([1 / len(text) for text in rows.text], dtype=torch.float64)
    found = {"h0": _explained(rows.h0, inverse), "delta": _explained(rows.delta, inverse)}
    return Fault(
        id="W17",
        claim="The first token is in the mean: nearly the same vector in every text and far larger than all others, so "
        "the mean says how long the text is.",
        computed="share of the variance of the pooled residuals that a straight line in 1 / length explains",
        expected="more than a quarter for the base model, where its first token has such a residual",
        found=found,
        n={"rows": len(rows)},
        survives="in models with such a first token (on SmolLM2-135M its norm is 24,900, where others have about 130); "
        "not where the first positions are left out",
        confirmed=found["h0"] > 0.25,
    )


def _explained(values: Float[Tensor, "row d_model"], by: Float[Tensor, " row"]) -> float:
    """Return the share of the total variance of `values` that is linear in `by` (0..1)."""
    centred, line = values.double() - values.double().mean(0), by - by.mean()
    total = centred.square().sum() * line.square().sum()
    return float((line @ centred).square().sum() / total) if float(total) > 0 else 0.0
