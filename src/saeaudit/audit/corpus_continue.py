"""Stage: what both models write after the top documents, and after as many documents drawn at random."""

from saeaudit.audit.corpus_scores import CorpusScores
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.errors import InputError
from saeaudit.models import LoadedModel, context_length, greedy
from saeaudit.seeds import numpy_generator

N_CONTINUED = 10
N_NEW_TOKENS = 24
# Text cut at a token may have a few more tokens when it is read again.
MARGIN_TOKENS = 8


class ContinuationRecord(Record):
    """Greedy continuations; `top` by rank, `random` are documents outside the top ones. Documents by number."""

    top: list[int]
    random: list[int]
    base: dict[int, str]
    tuned: dict[int, str]

    def n_changed(self, documents: list[int]) -> int:
        """Return after how many of the documents the two models write something different."""
        return sum(self.base[i] != self.tuned[i] for i in documents)


def continuation_stage(session: Session, scores: CorpusScores) -> ContinuationRecord:
    """Generate once; the record is reused."""
    inputs = session.identity("corpus-continuations", scores.score, N_CONTINUED, N_NEW_TOKENS)
    return session.stages.run(
        "corpus-continuations", inputs, ContinuationRecord, lambda: _continue(session, scores.rank())
    )


def _continue(session: Session, rank: list[int]) -> ContinuationRecord:
    order = sorted(range(len(rank)), key=lambda i: rank[i])
    top, rest = order[:N_CONTINUED], order[N_CONTINUED:]
    rng = numpy_generator(session.config.seed, "corpus", "random-continuations")
    random = sorted(int(i) for i in rng.choice(rest, size=min(N_CONTINUED, len(rest)), replace=False))
    chosen = top + random
    prompts = [_prompt(session, i) for i in chosen]
    written = {
        side: dict(zip(chosen, _greedy(session, model, prompts), strict=True))
        for side, model in (("base", session.pair.base), ("tuned", session.pair.tuned))
    }
    return ContinuationRecord(top=top, random=random, base=written["base"], tuned=written["tuned"])


def _greedy(session: Session, loaded: LoadedModel, prompts: list[str]) -> list[str]:
    found = greedy(
        loaded.model,
        session.pair.base.tokenizer,
        prompts,
        n_new=N_NEW_TOKENS,
        batch_size=session.config.behaviour.batch_size,
        progress=session.watcher.progress,
    )
    return [g.text for g in found]


def _prompt(session: Session, document: int) -> str:
    """Return the text that was read, shortened at its end where the continuation would not fit."""
    tokens, tokenizer = session.data.documents, session.pair.base.tokenizer
    room = min(context_length(session.pair.base.model), context_length(session.pair.tuned.model))
    room -= N_NEW_TOKENS + MARGIN_TOKENS
    if room < 1:
        raise InputError(
            f"continuations of {N_NEW_TOKENS} tokens do not fit into the models' context", code="prompt-too-long"
        )
    text, ids = tokens.documents[document].text, tokens.ids[document]
    if len(ids) <= room and len(tokenizer(text, verbose=False)["input_ids"]) == len(ids):
        return text
    return str(tokenizer.decode(list(ids[:room]), skip_special_tokens=True))
