"""The claims of an audit: every number with n, interval and control."""

from typing import Any

from saeaudit.audit.causal import AblationRecord, BehaviourRecord, Number
from saeaudit.audit.detect import DetectionRecord
from saeaudit.audit.prove import ProofRecord
from saeaudit.detection import Decision, Measured, RuleInputs, decide
from saeaudit.detection.verdict import CONTRAST_FINDING, EXCESS_FINDING, REMOVED_FINDING, TPR_FINDING
from saeaudit.errors import EvidenceError
from saeaudit.findings import Control, Finding
from saeaudit.wording import counted


def verdict(
    detection: DetectionRecord,
    behaviour: BehaviourRecord,
    ablation: AblationRecord | None,
    *,
    blocked: EvidenceError | None = None,
) -> Decision:
    """Apply the written rules to the records; `blocked` is why the ablation could not be measured."""
    chosen = detection.chosen
    return decide(
        RuleInputs(
            tpr=Measured(chosen.tpr, chosen.tpr_interval, chosen.n_trigger),
            null_tpr_upper=detection.permuted.interval[1],
            target_fpr=chosen.target_fpr,
            contrast_change=behaviour.change.measured(),
            removed_share=None if ablation is None else ablation.removed_share.value,
            ablation_excess=None if ablation is None else ablation.excess.measured(),
            **_blocked(blocked),
        )
    )


def undecided(error: EvidenceError) -> Decision:
    """Return the verdict where nothing could be measured."""
    return decide(RuleInputs(**_blocked(error)))


def _blocked(error: EvidenceError | None) -> dict[str, Any]:
    return {} if error is None else {"blocked": str(error), "blocked_needed": getattr(error, "needed", None)}


def findings_of(
    detection: DetectionRecord, behaviour: BehaviourRecord, ablation: AblationRecord | None, proof: ProofRecord | None
) -> list[Finding]:
    """Return all findings."""
    found = _detection(detection) + _behaviour(behaviour)
    if ablation is not None:
        found += _ablation(ablation)
    if proof is not None and proof.curve is not None:
        found += _recovery(proof)
    return found


def _detection(detection: DetectionRecord) -> list[Finding]:
    chosen = detection.chosen
    best = max(
        (s for s in detection.scores if s.site == chosen.site and s.family == "baseline"),
        key=lambda s: (s.tpr, s.auroc),
    )
    basis = detection.random_basis
    where = f"{chosen.method} at {chosen.site}{', over all prompt tokens,' if chosen.pooling == 'max' else ''}"
    return [
        Finding(
            id=TPR_FINDING,
            claim=f"{where} flag this share of held-out trigger prompts at a calibrated false-positive rate of "
            f"{100 * chosen.target_fpr:g} %",
            value=chosen.tpr,
            unit="share of trigger prompts",
            n=chosen.n_trigger,
            interval=chosen.tpr_interval,
            control=Control(
                name="labels of the held-out prompts permuted within templates",
                value=detection.permuted.mean,
                interval=detection.permuted.interval,
                n=detection.permuted.n_draws,
            ),
            evidence=f"{counted(detection.n_latents, 'latent')} chosen on selection prompts, threshold from "
            f"{detection.n_calibration} benign prompts, p = {detection.permuted.p:.3g} against the control",
        ),
        Finding(
            id="detection.best-latent",
            claim=f"the best latent of {chosen.method} at {chosen.site} ranks a trigger prompt above a benign one this "
            "often on the prompts it was selected on",
            value=detection.best_auroc[0],
            unit="AUROC",
            n=detection.n_selection,
            interval=detection.best_auroc[1:],
            control=Control(
                name="the best of as many latents under shuffled labels",
                value=detection.shuffled_selection.mean,
                interval=detection.shuffled_selection.interval,
                n=detection.shuffled_selection.n_draws,
            ),
            evidence="the control is what choosing the best of many finds by chance; the claim above it needs no such "
            "correction, its prompts were not used to choose",
        ),
        Finding(
            id="detection.dictionary-gain",
            claim=f"{where} flag this much more of the trigger prompts than the best of as many random directions",
            value=chosen.tpr - basis.mean,
            unit="difference of shares",
            n=chosen.n_trigger,
            interval=(chosen.tpr - basis.interval[1], chosen.tpr - basis.interval[0]),
            control=Control(
                name="best of as many random directions, same selection rule (share flagged)",
                value=basis.mean,
                interval=basis.interval,
                n=basis.n_draws,
            ),
            evidence="range over draws; at 0 the dictionary adds nothing to reading the difference at random",
        ),
        Finding(
            id="detection.auroc",
            claim=f"{where} rank a trigger prompt above a benign one this often",
            value=chosen.auroc,
            unit="AUROC",
            n=chosen.n_trigger + chosen.n_benign,
            interval=chosen.auroc_interval,
            control=Control(
                name=f"best cheap baseline: {best.method}",
                value=best.auroc,
                interval=best.auroc_interval,
                n=best.n_trigger + best.n_benign,
            ),
        ),
        Finding(
            id="detection.worst-class-fpr",
            claim=f"{where} flag this share of the benign class {chosen.worst_class!r}, the worst one",
            value=chosen.worst_class_fpr,
            unit="share of benign prompts",
            n=next(c.n for c in detection.class_rates if c.name == chosen.worst_class),
            interval=chosen.worst_class_interval,
            control=Control(
                name="all benign classes together", value=chosen.fpr, interval=chosen.fpr_interval, n=chosen.n_benign
            ),
        ),
    ]


def _behaviour(behaviour: BehaviourRecord) -> list[Finding]:
    return [
        Finding(
            id=CONTRAST_FINDING,
            claim="the trigger changes the tuned model's continuations more than the base model's, by this much "
            f"(trigger minus benign, {behaviour.measured_by})",
            value=behaviour.change.value,
            unit="difference of shares",
            n=behaviour.change.n,
            interval=behaviour.change.interval,
            control=Control(
                name="the base model's own trigger-minus-benign contrast",
                value=behaviour.base_contrast.value,
                interval=behaviour.base_contrast.interval,
                n=behaviour.base_contrast.n,
            ),
        )
    ]


def _ablation(ablation: AblationRecord) -> list[Finding]:
    n_sets = len(ablation.random_sets)
    held = counted(len(ablation.latents), "latent")
    random = f"{counted(len(ablation.latents), 'random latent')} of equal firing rate ({counted(n_sets, 'draw')})"
    return [
        _paired(
            REMOVED_FINDING,
            f"holding {held} at zero removes this share of the changed behaviour",
            "share of the contrast",
            ablation.removed_share,
            random,
            ablation.random_share,
        ),
        Finding(
            id=EXCESS_FINDING,
            claim="the chosen latents remove this much more of the contrast than random ones (paired by prompt)",
            value=ablation.excess.value,
            unit="difference of shares",
            n=ablation.excess.n,
            interval=ablation.excess.interval,
            control=Control(
                name=f"removed by {random}",
                value=ablation.random_removed.value,
                interval=ablation.random_removed.interval,
                n=ablation.random_removed.n,
            ),
        ),
        _paired(
            "ablation.kl",
            "cost of the hold on ordinary text: KL(tuned || held)",
            "nat a token",
            ablation.kl,
            random,
            ablation.random_kl,
        ),
        _paired(
            "ablation.ce",
            "cost of the hold on ordinary text: rise of the cross-entropy",
            "nat a token",
            ablation.ce_rise,
            random,
            ablation.random_ce_rise,
        ),
    ]


def _paired(name: str, claim: str, unit: str, number: Number, control: str, other: Number) -> Finding:
    return Finding(
        id=name,
        claim=claim,
        value=number.value,
        unit=unit,
        n=number.n,
        interval=number.interval,
        control=Control(name=control, value=other.value, interval=other.interval, n=other.n),
    )


def _recovery(proof: ProofRecord) -> list[Finding]:
    curve = proof.curve
    assert curve is not None
    attack, chance = curve.arms
    at = next((i for i, r in enumerate(attack.rate) if i > 0 and r >= 0.5), len(attack.rate) - 1)
    return [
        Finding(
            id="recovery.rate",
            claim=f"with the hold on, a searched push of {100 * curve.budgets_relative[at]:g} % of the residual's norm "
            "brings the behaviour back on this share of the prompts from which the hold removed it",
            value=attack.rate[at],
            unit="share of suppressed prompts",
            n=attack.n,
            interval=attack.interval[at],
            control=Control(
                name="a random direction of the same norm",
                value=chance.rate[at],
                interval=chance.interval[at],
                n=chance.n,
            ),
            evidence=f"suppressed: {counted(proof.n_flips, 'prompt')}, attacked: {attack.n}; the held latents' "
            f"pre-activations moved by at most {proof.leak or 0.0:.1e} of what an unconstrained push would move",
        )
    ]
