"""An audit without examples: documents of a corpus ranked by what tuning did on them, and no claim about the model.

1. Read both models' residuals and next-token distributions on every document.
2. Score tokens by three statistics, each fitted on the half of the corpus that does not hold the document; beside them
   a twin that sees the base alone. A document high in both is rare text first of all.
3. Train a Diff-SAE and rank its latents by how much of their activity lies in the top documents.
4. Show the top documents with both models' continuations.

The verdict is `abstain`, always: with no trigger examples and no clean tunes of the same base there is nothing that
these scores could be a probability of.
"""

from collections.abc import Sequence
from dataclasses import replace

from saeaudit.audit.changed_sites import SiteRecord
from saeaudit.audit.corpus_claims import corpus_findings, is_rare_text, top_score
from saeaudit.audit.corpus_continue import ContinuationRecord, continuation_stage
from saeaudit.audit.corpus_latents import latent_stage, top_count
from saeaudit.audit.corpus_logits import logit_stage
from saeaudit.audit.corpus_scores import CorpusScores, score_stage
from saeaudit.audit.dictionaries import dictionary_stage
from saeaudit.audit.session import Session
from saeaudit.audit.summarise import Header, findings_with
from saeaudit.detection import Decision
from saeaudit.errors import EvidenceError
from saeaudit.findings import Finding, Findings, RankedDocument, Rule
from saeaudit.wording import counted

N_SHOWN = 20
ROWS_PER_COORDINATE = 20

NO_EXAMPLES = "no trigger examples and no clean tunes of the same base were given"

NOT_TESTED = [
    "Any statement about the model: how strange the top documents of a clean tune would look was not measured.",
    "Trigger or topic: few documents of the kind the model was tuned on rank high with or without a trigger in them.",
    "Behaviour that no document of the corpus switches on; at one trigger document in N, the corpus needs several N.",
    "Conditions that need several turns, sampling, or a system prompt that the corpus does not contain.",
    "Which part of a document matters, and whether a text made from it works as a trigger.",
    "An adversary who trained the model to hide from differences of activations and of outputs.",
]
NEXT_STEPS = [
    "Read the top documents and both continuations; those marked as rare text are strange to the base as well.",
    "If a document suggests a trigger, write trigger and benign examples of it and audit with them; only that tests.",
    "For a statement without examples, rank the same corpus for clean tunes of the same base and compare the scores.",
]


def audit_corpus(session: Session, header: Header, sites: SiteRecord) -> Findings:
    """Rank documents and latents; return findings with the verdict `abstain`.

    Scores leave out sites at which the models are equal, unless that is all of them: then only outputs differ.

    Raises:
        EvidenceError, NumericsError: the corpus or the activations cannot be scored.
    """
    logits = logit_stage(session)
    session = replace(session, sites=[s for s in session.sites if s not in sites.equal] or session.sites)
    scores = score_stage(session, logits)
    site = sites.differing[(len(sites.differing) - 1) // 2] if sites.differing else None
    dictionaries = [] if site is None else [dictionary_stage(session, site, "diff")]
    latents = None if site is None else latent_stage(session, site, scores)
    continuations = continuation_stage(session, scores)
    findings = corpus_findings(scores, latents, continuations, seed=session.config.seed)
    rule = _undecided(f"the documents were ranked instead: {session.data.corpus_origin}", findings)
    return findings_with(
        header,
        Decision("abstain", _sentence(session, scores), [rule]),
        findings=findings,
        dictionaries=dictionaries,
        latents=[] if latents is None else latents.latents,
        corpus=ranked_documents(session, scores, continuations),
        not_tested=[*NOT_TESTED, f"Sites other than {', '.join(session.sites)}."],
        next_steps=NEXT_STEPS,
        warnings=header.bench.warnings(header.name) + sites.warnings() + _warnings(session),
        timings=header.timings(session),
    )


def unranked(header: Header, error: EvidenceError, session: Session | None) -> Findings:
    """Return findings where the documents could not even be ranked: the reason."""
    decision = Decision("abstain", f"The audit abstains: {error}.", [_undecided(f"no document was ranked: {error}")])
    return findings_with(header, decision, not_tested=NOT_TESTED, timings=header.timings(session))


def _undecided(instead: str, findings: Sequence[Finding] = ()) -> Rule:
    """Return the one rule of an audit without examples, which nothing that it does can decide."""
    return Rule(
        id="examples",
        text="held-out trigger examples show a behaviour that the base lacks",
        passed=None,
        reason=f"{NO_EXAMPLES}; {instead}",
        findings=[f.id for f in findings],
    )


def ranked_documents(session: Session, scores: CorpusScores, continuations: ContinuationRecord) -> list[RankedDocument]:
    """Return the top documents: combined score, each statistic's, rank by the base alone, tokens with their values."""
    tokens = session.data.documents
    rank, base_rank = scores.rank(), scores.base_rank()
    shown = sorted(range(len(rank)), key=lambda i: rank[i])[:N_SHOWN]
    documents = []
    for i in shown:
        ids = tokens.ids[i]
        values = scores.tokens[tokens.offsets[i] : tokens.offsets[i + 1]]
        documents.append(
            RankedDocument(
                rank=rank[i],
                doc_id=tokens.documents[i].doc_id,
                score=scores.score[i],
                scores={name: column[i] for name, column in scores.by_statistic.items()}
                | {
                    "base_only": scores.base_only[i],
                    "base_only_rank": base_rank[i],
                    "rare_text": float(is_rare_text(i, rank, base_rank)),
                },
                tokens=[str(session.pair.base.tokenizer.decode([t])) for t in ids],
                activations=[0.0] * (len(ids) - len(values)) + list(values),
                base=continuations.base.get(i, ""),
                tuned=continuations.tuned.get(i, ""),
            )
        )
    return documents


def _sentence(session: Session, scores: CorpusScores) -> str:
    n = len(scores.score)
    k = top_count(n)
    rank, base_rank = scores.rank(), scores.base_rank()
    n_rare = sum(is_rare_text(i, rank, base_rank) for i in range(n) if rank[i] <= k)
    return (
        f"Anomalous documents, no claim about the model: {NO_EXAMPLES}. {n} documents were ranked by aligned residual, "
        f"relative Mahalanobis distance and adjusted KL divergence at {counted(len(session.sites), 'site')}; the top "
        f"{k} score {top_score(scores.score, k):.2f} on average; rare text, strange to the base alone too: "
        f"{n_rare}. Trigger and benign examples, or clean tunes of the same base, would resolve it."
    )


def _warnings(session: Session) -> list[str]:
    tokens, d_model = session.data.documents, session.pair.base.card.d_model
    if tokens.n_rows >= ROWS_PER_COORDINATE * d_model:
        return []
    return [
        f"The corpus has {tokens.n_rows} tokens; {ROWS_PER_COORDINATE * d_model} are needed ({ROWS_PER_COORDINATE} per "
        "residual dimension) before distances tell changed rows from unusual ones well. Give more text."
    ]
