"""From `Findings` to what the templates print: what is shown, in which order, how much of it.

Nothing is computed here that is not in the findings; long lists and texts are cut, and the page says how much was cut.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from saeaudit.findings import Finding, Findings, GenerationRow, LatentView, MethodScore, RankedDocument, Rule
from saeaudit.report import figures
from saeaudit.report.figure_style import figure_data
from saeaudit.report.shading import ShadedText, shade
from saeaudit.report.sites import by_depth

MAX_LATENTS = 16
MAX_CONTEXTS = 8
MAX_GENERATIONS = 24
MAX_DOCUMENTS = 40
CONTEXT_TOKENS = 96
DOCUMENT_TOKENS = 220


class RuleView(NamedTuple):
    """A rule with the findings that decided it; `unknown` are ids that the file does not hold."""

    rule: Rule
    findings: list[Finding]
    unknown: list[str]


class PairView(NamedTuple):
    """The audited pair: (side, source) for the header, and a table of every recorded field, one column a side."""

    sides: list[tuple[str, str]]
    columns: list[str]
    fields: list[tuple[str, list[str]]]
    extras: list[tuple[str, str]]


class ContextView(NamedTuple):
    """A context of a latent: which document, its role, and its shaded tokens."""

    doc_id: str
    role: str
    text: ShadedText


class LatentCard(NamedTuple):
    """A latent and the contexts shown for it."""

    latent: LatentView
    contexts: list[ContextView]
    n_omitted: int


class Side(NamedTuple):
    """One continuation: its label, its text, the judge's verdict, and whether that is the verdict tuning brought."""

    label: str
    text: str
    verdict: str | None
    as_tuned: bool


class GenerationView(NamedTuple):
    """A prompt and its four continuations."""

    row: GenerationRow
    sides: list[Side]


class DocumentView(NamedTuple):
    """A ranked document of the corpus with its shaded tokens."""

    document: RankedDocument
    text: ShadedText


def build_view(findings: Findings) -> dict[str, Any]:
    """Return the names that the templates use."""
    site = chosen_site(findings.scores)
    at_site = sorted((s for s in findings.scores if s.site == site), key=lambda s: (-s.auroc, -s.tpr, s.method))
    sites = by_depth(score.site for score in findings.scores)
    chosen = next((s for s in findings.scores if s.chosen), None)
    return {
        "f": findings,
        "pair": pair_view(findings.pair),
        "rules": [rule_view(findings, rule) for rule in findings.rules],
        "site": site,
        "sites": sites,
        "scores": at_site,
        "other_scores": [s for name in sites if name != site for s in findings.scores if s.site == name],
        "chosen": chosen,
        "latents": [latent_card(latent) for latent in findings.latents[:MAX_LATENTS]],
        "generations": [generation_view(row) for row in findings.generations[:MAX_GENERATIONS]],
        "documents": document_views(findings.corpus[:MAX_DOCUMENTS]),
        "score_names": list(dict.fromkeys(name for document in findings.corpus for name in document.scores)),
        "config": json.dumps(findings.reproduce.config, indent=2, ensure_ascii=False),
        "longest": max(findings.timings.values(), default=0.0),
        "charts": charts(findings, at_site, sites, chosen),
    }


def charts(
    findings: Findings, at_site: Sequence[MethodScore], sites: Sequence[str], chosen: MethodScore | None
) -> dict[str, dict[str, Any]]:
    """Return the charts for which there are data, by name."""
    drawn: dict[str, dict[str, Any]] = {}
    if at_site:
        drawn["methods"] = figure_data(figures.methods_figure(at_site))
    if findings.class_rates:
        target = chosen.target_fpr if chosen else None
        drawn["classes"] = figure_data(figures.classes_figure(findings.class_rates, target_fpr=target))
    if len(sites) > 1:
        drawn["layers"] = figure_data(figures.layers_figure(findings.scores, sites))
    if findings.recovery is not None and findings.recovery.arms:
        drawn["recovery"] = figure_data(figures.recovery_figure(findings.recovery))
    return drawn


def chosen_site(scores: Sequence[MethodScore]) -> str | None:
    """Return the site of the chosen detector; without one, the site with the most methods, the first of equals."""
    for score in scores:
        if score.chosen:
            return score.site
    names = [score.site for score in scores]
    return max(dict.fromkeys(names), key=names.count, default=None)


def rule_view(findings: Findings, rule: Rule) -> RuleView:
    """Attach to a rule the findings it names."""
    by_id = {finding.id: finding for finding in findings.findings}
    return RuleView(rule, [by_id[i] for i in rule.findings if i in by_id], [i for i in rule.findings if i not in by_id])


def pair_view(pair: Mapping[str, Any]) -> PairView:
    """Set the cards of the two sides beside each other; anything in `pair` that is not a card is listed below them."""
    cards = {name: card for name, card in pair.items() if isinstance(card, Mapping)}
    names = list(dict.fromkeys(str(field) for card in cards.values() for field in card))
    sides = [(name, _source(pair[name])) for name in ("base", "tuned") if name in pair]
    plain = {name: value for name, value in pair.items() if name not in cards and name not in ("base", "tuned")}
    return PairView(
        sides=sides,
        columns=list(cards),
        fields=[(field, [_plain(card.get(field)) for card in cards.values()]) for field in names],
        extras=[(name, _plain(value)) for name, value in plain.items()],
    )


def latent_card(latent: LatentView) -> LatentCard:
    """Shade the contexts of a latent on one scale, its largest activation."""
    scale = max((a for context in latent.contexts for a in context.activations), default=0.0)
    contexts = [
        ContextView(c.doc_id, c.role, shade(c.tokens, c.activations, scale=scale, width=CONTEXT_TOKENS))
        for c in latent.contexts[:MAX_CONTEXTS]
    ]
    return LatentCard(latent, contexts, max(len(latent.contexts) - MAX_CONTEXTS, 0))


def generation_view(row: GenerationRow) -> GenerationView:
    """Put the four continuations of a prompt side by side, with the judge's verdict on each."""
    sides = [("base", "base"), ("tuned", "tuned"), ("ablated", "ablated"), ("random_ablated", "random ablated")]
    brought = row.judged.get("tuned") if row.judged.get("tuned") != row.judged.get("base") else None
    return GenerationView(
        row,
        [
            Side(label, getattr(row, key), row.judged.get(key), brought is not None and row.judged.get(key) == brought)
            for key, label in sides
        ],
    )


def document_views(documents: Sequence[RankedDocument]) -> list[DocumentView]:
    """Shade all documents on one scale, so that colours can be compared between them."""
    scale = max((a for document in documents for a in document.activations), default=0.0)
    return [DocumentView(d, shade(d.tokens, d.activations, scale=scale, width=DOCUMENT_TOKENS)) for d in documents]


def _source(card: Any) -> str:
    return _plain(card.get("source", card)) if isinstance(card, Mapping) else _plain(card)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
