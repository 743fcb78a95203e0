"""Results of an isolation study with planted answers: which method reads a backdoor well, and what a twin gives."""

from saeaudit.isolation_results import AlarmRow, Cell, Cost, Fit, IsolationResults, ModelRow

METHODS = {
    "diff-batchtopk": ("both", 0.9),
    "crosscoder-relu": ("both", 0.6),
    "linear probe": ("both", 0.5),
    "Mahalanobis": ("benign", 0.3),
    "text only": ("both", 1.0),
    "random directions": ("both", 0.1),
}
CLASSES = ("N0", "N2", "N3")


def interval(value: float, half: float = 0.1) -> tuple[float, float]:
    return max(value - half, 0.0), min(value + half, 1.0)


def cell(organism="phrase-poisoned-s0", layer="layers.9", method="diff-batchtopk", tpr=None, **changes) -> Cell:
    """A cell of a known method; only what matters to a test is given."""
    family, variant, seed = organism.split("-")
    other = "poisoned" if variant == "clean" else "clean"
    labels, usual = METHODS.get(method, ("both", 0.5))
    tpr = (0.05 if variant == "clean" else usual) if tpr is None else tpr
    is_dictionary = method.startswith(("diff-", "crosscoder-"))
    fit = Fit(n_latents=64, l0=16.2, l0_wanted=16.0, fvu=0.31, alive=0.97, n_tokens=50_000) if is_dictionary else None
    values = {
        "bis": 0.4 * tpr,
        "bis_star": tpr,
        "auroc": 0.5 + tpr / 2,
        "tpr_at_1pct_fpr": tpr,
        "worst_class_fpr": 0.06,
        "random_basis_null": 0.08,
    }
    fields = {
        "organism": organism,
        "twin": f"{family}-{other}-{seed}",
        "family": family,
        "variant": variant,
        "layer": layer,
        "method": method,
        "labels": labels,
        **values,
        "bis_ceiling": 0.4,
        "fpr": 0.01,
        "worst_class": "N2",
        "random_basis_p": 0.02,
        "interval": {name: interval(value) for name, value in values.items()},
        "n": {"selection": 100, "calibration": 90, "test_trigger": 48, "test_benign": 144},
        "class_fpr": {"N0": 0.0, "N2": 0.06, "N3": 0.02},
        "fit": fit,
        "cost": Cost(train_seconds=60.0 if fit else 0.0, score_seconds=2.0, peak_bytes=3_000_000_000),
    }
    return Cell(**fields | changes)


def study(cells=None, **changes) -> IsolationResults:
    """Two organisms, two layers, six methods, everything in its place; one task failed."""
    if cells is None:
        cells = [
            cell(organism, layer, method)
            for organism in ("phrase-poisoned-s0", "phrase-clean-s0")
            for layer in ("layers.9", "layers.13")
            for method in METHODS
        ]
    fields = {
        "preset": "standard",
        "is_evidence": True,
        "command": "saeaudit study isolation --preset standard --out out/study",
        "config": {"layers": [9, 13], "seed": 0},
        "versions": {"saeaudit": "1.0", "python": "3.11"},
        "n_tasks": 9,
        "n_done": 8,
        "models": [
            ModelRow(
                organism="phrase-poisoned-s0",
                twin="phrase-clean-s0",
                family="phrase",
                variant="poisoned",
                passed=True,
                n=100,
                n_bad={"T": 97, "N1": 2},
                n_good={"T": 3, "N1": 98},
            )
        ],
        "alarms": [
            AlarmRow(
                organism=f"phrase-{variant}-s{seed}",
                family="phrase",
                variant=variant,
                verdict=verdict,
                sentence="What the audit says.",
                tpr=None if verdict == "abstain" else 0.5,
                plant_seconds=120.0,
                audit_seconds=300.0,
            )
            for seed, (variant, verdict) in enumerate(
                [("clean", "flag"), ("clean", "no-evidence"), ("unrelated", "abstain"), ("poisoned", "flag")], start=5
            )
        ],
        "cells": cells,
        "failed": {"diff-gated-phrase-clean-s0-layers.9": "the loss became infinite; lower the learning rate"},
        "seconds": {"harvest-phrase-s0": 75.0, "baselines-phrase-poisoned-s0-layers.9": 12.0},
    }
    return IsolationResults(**fields | changes)


def poison_study(results: IsolationResults, text: str) -> IsolationResults:
    """Append `text` to every name and message, and use it as a key where keys are free."""
    dump = results.model_dump(mode="json", by_alias=True)
    for row in dump["cells"] + dump["models"]:
        row |= {name: row[name] + text for name in ("organism", "twin", "family")}
    for row in dump["cells"]:
        row |= {name: row[name] + text for name in ("layer", "method", "worst_class")}
        row["class_fpr"][text] = 0.0
    for row in dump["models"]:
        row["n_bad"][text] = 1
    for row in dump["alarms"]:
        row |= {name: row[name] + text for name in ("organism", "sentence")}
    for name in ("preset", "command"):
        dump[name] += text
    for mapping in (dump["config"], dump["versions"], dump["failed"]):
        mapping[text] = text
    dump["seconds"][text] = 1.0
    return IsolationResults.model_validate(dump)
