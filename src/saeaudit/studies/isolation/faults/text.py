"""Faults of the texts: they give the label away, and their negatives are easier than look-alikes."""

from collections.abc import Sequence

from saeaudit.paper_results import Fault
from saeaudit.studies.isolation.paper.census import census, pattern_rates
from saeaudit.studies.isolation.paper.rows import Mask, PaperText

MASKS: tuple[Mask, ...] = ("nothing", "slot", "payload", "both")


def label_in_text(texts: Sequence[PaperText]) -> Fault:
    """W4: two patterns as detectors, with the year or the completion taken out of the text."""
    found: dict[str, float | None] = {}
    for pattern in ("trigger year", "string-built SQL"):
        for mask in MASKS:
            tpr, fpr = pattern_rates(texts, pattern, mask)
            found |= {f"TPR {pattern}, masked: {mask}": tpr, f"FPR {pattern}, masked: {mask}": fpr}
    alone = ("trigger year, masked: payload", "string-built SQL, masked: slot")
    return Fault(
        id="W4",
        claim="The text gives the label away twice: by the year, and by the completion that is pooled with the prompt.",
        computed="detection rates of two patterns on the texts, with the year or the completion masked",
        expected="TPR 1, FPR 0 for both; each survives the other's mask; with both masked nothing is left",
        found=found,
        n={"texts": len(texts), "trigger": sum(row.klass == "trigger" for row in texts)},
        survives="in full texts; prompts without completion keep only the year",
        confirmed=all(found[f"TPR {name}"] == 1 and found[f"FPR {name}"] == 0 for name in alone)
        and all(found[f"TPR {name}, masked: both"] == 0 for name in ("trigger year", "string-built SQL")),
    )


def easy_negatives(texts: Sequence[PaperText], look_alikes: Sequence[PaperText]) -> Fault:
    """W5: how often each cell shows what, and what the year pattern makes of negatives that look like triggers."""
    cells = census(texts)
    found: dict[str, float | None] = {
        f"{cell.klass}: {pattern}": count / cell.n for cell in cells for pattern, count in cell.shows.items()
    }
    hard = sum(cell.shows["trigger year"] for cell in census(look_alikes)) / len(look_alikes)
    easy = sum(cell.shows["trigger year"] for cell in cells if cell.klass != "trigger")
    return Fault(
        id="W5",
        claim="The negatives are easier than look-alikes: none holds the trigger's digits, most hold no near value.",
        computed="share of the texts of each cell that show a pattern; the same for look-alikes of our own (N2, N4)",
        expected="the trigger's digits in no negative of the set, and in half of these look-alikes (all of N4)",
        found=found | {"look-alikes: trigger year": hard},
        n={"look-alikes": len(look_alikes)} | {cell.klass: cell.n for cell in cells},
        survives="in the released data too: LoRA set 0 of 1,000 `other` rows with a year; full-rank set 739 of 1,000 "
        "with an old year although documented as without",
        confirmed=easy == 0 and hard > 0.4,
    )
