"""Stage: under the clamp, does a push on the residual bring the behaviour back?"""

import torch

from saeaudit.artifacts import content_hash
from saeaudit.audit.causal import AblationRecord, BehaviourRecord
from saeaudit.audit.choice import ChoiceRecord
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.errors import EvidenceError
from saeaudit.findings import RecoveryArm, RecoveryCurve
from saeaudit.metrics import wilson
from saeaudit.models import encode_texts
from saeaudit.recovery import ArmResult, Flip, LadderResult, climb

N_SAME_TOKENS = 8


class ProofRecord(Record):
    """The curve, or why there is none."""

    curve: RecoveryCurve | None
    reason: str
    n_flips: int
    leak: float | None = None


def proof_stage(
    session: Session, choice: ChoiceRecord, behaviour: BehaviourRecord, ablation: AblationRecord
) -> ProofRecord:
    """Run the budget ladder on the prompts whose behaviour the clamp removed."""
    inputs = session.identity(
        "proof",
        choice.site,
        choice.latents,
        content_hash([behaviour.model_dump(), ablation.model_dump()]),
        session.config.ladder.model_dump(),
    )
    return session.stages.run("proof", inputs, ProofRecord, lambda: _prove(session, choice, behaviour, ablation))


def _prove(session: Session, choice: ChoiceRecord, behaviour: BehaviourRecord, ablation: AblationRecord) -> ProofRecord:
    tokenizer = session.pair.tuned.tokenizer
    answers = behaviour.tuned_ids

    def shows(i: int, text: str) -> bool:
        prompt = session.data.prompts[behaviour.prompts[i]].text
        if session.judge is not None:
            return session.judge(prompt, text)
        again = list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
        return again[:N_SAME_TOKENS] == answers[i][:N_SAME_TOKENS]

    flipped = [
        i
        for i in range(behaviour.n_trigger)
        if answers[i] and shows(i, behaviour.tuned[i]) and not shows(i, ablation.ablated[i])
    ]
    if not flipped:
        return ProofRecord(curve=None, reason="the clamp removed the behaviour on no test prompt", n_flips=0)
    prompts = [session.data.prompts[behaviour.prompts[i]].text for i in flipped]
    ids = encode_texts(tokenizer, prompts)
    flips = [Flip(p, tuple(t), tuple(answers[i])) for p, t, i in zip(prompts, ids, flipped, strict=True)]
    edit = session.edit(session.dictionary(choice.site).fold(), choice.site, tuple(choice.latents))
    try:
        result = climb(
            session.pair,
            edit,
            flips,
            lambda k, text: shows(flipped[k], text),
            session.config.ladder,
            seed=session.config.seed,
            n_new=session.config.behaviour.n_new_tokens,
            progress=session.watcher.progress,
        )
    except EvidenceError as error:
        return ProofRecord(curve=None, reason=str(error), n_flips=len(flips))
    return ProofRecord(curve=_curve(choice.site, result), reason="", n_flips=len(flips), leak=result.leak)


def _curve(site: str, result: LadderResult) -> RecoveryCurve:
    left_out = (
        f" Left out, because rounding alone turns their answer: {result.n_unsteady}." if result.n_unsteady else ""
    )
    return RecoveryCurve(
        site=site,
        injection="after_clamp",
        budgets_relative=list(result.budgets),
        arms=[_arm(result.attack, "attack"), _arm(result.random, "control")],
        eps50=result.eps50,
        constraint="pre-activations of the clamped latents unchanged at the clamp's site (by construction)",
        note=(
            "The push enters at the last prompt token, after the clamp, where the clamp cannot see it by definition: "
            "this measures whether the held latents are complete, not whether a deployment is robust. Budgets are "
            f"relative to the residual's norm there.{left_out}"
        ),
    )


def _arm(arm: ArmResult, role: str) -> RecoveryArm:
    back = arm.envelope()
    n = back.shape[0]
    hits = [int(h) for h in torch.as_tensor(back).sum(0)]
    return RecoveryArm(
        name=arm.name,
        role="attack" if role == "attack" else "control",
        rate=[h / n for h in hits],
        interval=[(bound.low, bound.high) for bound in (wilson(h, n) for h in hits)],
        n=n,
    )
