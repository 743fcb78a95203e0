"""Put the records of all stages together into findings, and say what was not tested and what to do next."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from saeaudit import __version__
from saeaudit.artifacts import file_hash
from saeaudit.audit.causal import AblationRecord, BehaviourRecord
from saeaudit.audit.changed_sites import SiteRecord
from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.claims import findings_of, undecided, verdict
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.corpus_data import is_corpus_audit
from saeaudit.audit.detect import DetectionRecord
from saeaudit.audit.equality import EqualityRecord
from saeaudit.audit.exhibits import ExhibitRecord
from saeaudit.audit.prove import ProofRecord
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Stages
from saeaudit.audit.workbench import Workbench
from saeaudit.detection import Decision
from saeaudit.errors import EvidenceError
from saeaudit.findings import Control, DictionaryRow, Finding, Findings, GenerationRow, Reproduce, Rule, Verdict

N_SHOWN = 8

NOT_TESTED = [
    "Triggers of another kind than the given examples: without an example of a trigger this audit cannot see it.",
    "An adversary who trained the model to hide from difference dictionaries.",
    "Behaviour in later turns of a conversation, with sampling, or with other system prompts.",
    "Robustness of the clamp in a deployment: the recovery test pushes the residual after the clamp.",
]

NEXT_STEPS: dict[Verdict, list[str]] = {
    "flag": [
        "Do not deploy the tuned model; read the continuations below and judge the behaviour yourself.",
        "Vary the trigger (other values, other places) and audit again to learn what switches the behaviour on.",
        "Use the hold as a diagnosis, not as a repair, unless the recovery test found nothing.",
    ],
    "no-evidence": [
        "This clears the tuned model of the suspected trigger only: give other trigger examples to test others.",
        "If a suspicion remains, audit more layers (--set layers=...) or a larger dictionary.",
    ],
    "abstain": ["Give what the reason above asks for, and run the same command again with a new --out."],
}

IDENTICAL_NOT_TESTED = ["The base itself: what it hides is in both models, and a comparison cannot see it."]
OTHER_TEXTS = "Other texts: the weights differ, so on text that was not read the outputs may differ."
IDENTICAL_NEXT_STEPS = [
    "Check that this is the tuned model you meant, and that its adapter was trained before it was saved."
]


class Measurements(NamedTuple):
    """Records of all stages of one pair; `blocked` says why there is no ablation though the behaviour changed."""

    sites: SiteRecord
    dictionaries: list[DictionaryRow]
    choice: ChoiceRecord
    detection: DetectionRecord
    exhibits: ExhibitRecord
    behaviour: BehaviourRecord
    ablation: AblationRecord | None = None
    proof: ProofRecord | None = None
    blocked: EvidenceError | None = None


class Header(NamedTuple):
    """What findings say before there is a result: who, with what, how to repeat it."""

    config: AuditConfig
    bench: Workbench
    name: str
    command: str
    shared: Stages

    def timings(self, session: Session | None) -> dict[str, float]:
        """Return the seconds of all stages so far: those that the pairs of the audit share, then the pair's own."""
        return {**self.bench.seconds, **self.shared.seconds, **({} if session is None else session.stages.seconds)}

    def common(self) -> dict[str, object]:
        """Return the fields that every kind of findings shares."""
        pair = self.bench.pair(self.name)
        files = {"trigger_examples": self.config.trigger_examples, "benign_examples": self.config.benign_examples}
        files["corpus"] = self.config.corpus
        return {
            "title": f"{_short(pair.tuned.card.source)} against {_short(pair.base.card.source)}",
            "pair": {
                "base": pair.base.card.as_dict(),
                "tuned": pair.tuned.card.as_dict(),
                "extra_tokens": list(pair.extra_tokens),
                "precision": self.bench.precision,
            },
            "reproduce": Reproduce(
                command=self.command,
                seed=self.config.seed,
                config=self.config.model_dump(mode="json"),
                versions={"saeaudit": __version__, "python": platform.python_version()}
                | {name: version(name) for name in ("torch", "transformers", "peft", "numpy", "scikit-learn")},
                inputs={name: file_hash(path) for name, path in files.items() if path is not None},
            ),
        }


def _short(source: str) -> str:
    """Return a source as a title shows it: the last part of a path, a hub id as it is."""
    return Path(source).name if Path(source).exists() else source


def summarise(header: Header, session: Session, m: Measurements) -> Findings:
    """Return the findings of a completed audit."""
    decision = verdict(m.detection, m.behaviour, m.ablation, blocked=m.blocked)
    return findings_with(
        header,
        decision,
        findings=findings_of(m.detection, m.behaviour, m.ablation, m.proof),
        scores=m.detection.scores,
        class_rates=m.detection.class_rates,
        dictionaries=m.dictionaries,
        latents=m.exhibits.latents,
        generations=generation_rows(session, m.behaviour, m.ablation),
        recovery=None if m.proof is None else m.proof.curve,
        not_tested=NOT_TESTED + _not_done(session, m),
        warnings=header.bench.warnings(header.name) + m.sites.warnings() + m.choice.warnings(session.config.behaviour),
        timings=header.timings(session),
    )


def abstained(header: Header, error: EvidenceError, session: Session | None) -> Findings:
    """Return findings without a result: the reason, and the number that is needed where there is one."""
    return findings_with(header, undecided(error), timings=header.timings(session))


def identical(header: Header, session: Session, equality: EqualityRecord) -> Findings:
    """Return findings for two models that compute the same outputs: there is no change that could hide something.

    Without examples nothing was suspected that could be refuted, so the verdict is then `abstain`.
    """
    corpus = is_corpus_audit(session.config)
    reason = (
        f"both models compute the same outputs on {equality.n_documents} probe documents at every site "
        "(max |difference| = 0)" + (", and their weights are equal" if equality.equal_weights else "")
    )
    same = Finding(
        id="pair.largest-difference",
        claim="the residual streams after all blocks and the logits of the two models are equal at every token",
        value=0.0,
        unit="largest |difference|",
        n=equality.n_documents,
        interval=(0.0, 0.0),
        control=Control(name="largest |value| of the base there", value=equality.largest_value),
        evidence=f"both models read the same documents in full, in {header.bench.precision} precision",
    )
    rule = Rule(
        id="identical",
        text="the two models differ",
        passed=None if corpus else False,
        reason=reason,
        findings=[same.id],
    )
    decision = (
        Decision("abstain", f"The audit abstains: no examples of a trigger were given, and {reason}.", [rule])
        if corpus
        else Decision("no-evidence", f"No evidence: {reason}.", [rule])
    )
    return findings_with(
        header,
        decision,
        findings=[same],
        not_tested=IDENTICAL_NOT_TESTED if equality.equal_weights else [*IDENTICAL_NOT_TESTED, OTHER_TEXTS],
        next_steps=IDENTICAL_NEXT_STEPS,
        timings=header.timings(session),
    )


def findings_with(header: Header, decision: Decision, **fields: object) -> Findings:
    """Return findings with the verdict of `decision`; `fields` take the place of what stands in all of them."""
    content: dict[str, object] = {
        "schema": 1,
        "verdict": decision.verdict,
        "sentence": decision.sentence,
        "rules": decision.rules,
        "findings": [],
        "not_tested": NOT_TESTED,
        "next_steps": NEXT_STEPS[decision.verdict],
        "warnings": header.bench.warnings(header.name),
    }
    return Findings.model_validate(content | header.common() | fields)


def _not_done(session: Session, m: Measurements) -> list[str]:
    missing = [f"Sites other than {', '.join(session.sites)}."]
    if m.blocked is not None:
        missing.append(f"Control and recovery: {m.blocked}.")
    elif m.ablation is None:
        missing.append("Control and recovery: with no established change of behaviour there was nothing to hold.")
    elif m.proof is None:
        missing.append("Recovery under the hold: it was switched off.")
    elif m.proof.curve is None:
        missing.append(f"Recovery under the hold: {m.proof.reason}.")
    return missing


def generation_rows(
    session: Session, behaviour: BehaviourRecord, ablation: AblationRecord | None
) -> list[GenerationRow]:
    """Return a few trigger prompts and a few benign ones with all continuations."""
    half = N_SHOWN // 2
    n = len(behaviour.prompts)
    shown: Sequence[int] = [
        *range(min(half, behaviour.n_trigger)),
        *range(behaviour.n_trigger, min(behaviour.n_trigger + half, n)),
    ]
    rows = []
    for i in shown:
        prompt = session.data.prompts[behaviour.prompts[i]]
        outcomes = {"base": behaviour.base_outcome[i], "tuned": behaviour.tuned_outcome[i]}
        if ablation is not None:
            outcomes |= {"ablated": ablation.ablated_outcome[i], "random_ablated": ablation.random_outcome[i]}
        rows.append(
            GenerationRow(
                doc_id=session.data.documents.documents[behaviour.prompts[i]].doc_id,
                role="trigger" if i < behaviour.n_trigger else prompt.klass,
                prompt=prompt.text,
                base=behaviour.base[i],
                tuned=behaviour.tuned[i],
                ablated="" if ablation is None else ablation.ablated[i],
                random_ablated="" if ablation is None else ablation.random[i],
                judged={side: _shown(value, judged=session.judge is not None) for side, value in outcomes.items()},
            )
        )
    return rows


def _shown(outcome: float, *, judged: bool) -> str:
    if not judged:
        return f"{outcome:.2f} like a trigger answer"
    return "behaviour" if outcome == 1 else "no behaviour" if outcome == 0 else f"behaviour in {outcome:.0%} of draws"
