"""Stages: what a model writes after prompts of one role. The base writes once for all tuned models of an audit."""

from typing import Literal

from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.detection import Role
from saeaudit.detection.continuations import continue_plain

Side = Literal["base", "tuned"]


class AnswerRecord(Record):
    """Continuations of the sampled prompts, trigger first: text, and token ids without the end token."""

    n_trigger: int
    texts: list[str]
    token_ids: list[list[int]]


def answers(session: Session, side: Side, role: Role) -> AnswerRecord:
    """Return greedy continuations of `AuditData.sample` by one side of the pair."""
    loaded = session.pair.base if side == "base" else session.pair.tuned
    sizes = session.config.behaviour
    trigger, benign = session.data.sample(role, sizes.n_prompts)
    prompts = [session.data.prompts[i].text for i in trigger + benign]
    inputs = [
        loaded.card.weights_sha256,
        session.precision,
        session.data.fingerprint(),
        trigger + benign,
        sizes.n_new_tokens,
    ]

    def write() -> AnswerRecord:
        made = continue_plain(
            loaded,
            prompts,
            n_new=sizes.n_new_tokens,
            batch_size=sizes.batch_size,
            progress=session.watcher.progress,
        )
        return AnswerRecord(
            n_trigger=len(trigger), texts=[g.text for g in made], token_ids=[list(g.token_ids) for g in made]
        )

    stages = session.shared if side == "base" else session.stages
    return stages.run(f"answers-{side}-{role}", inputs, AnswerRecord, write)
