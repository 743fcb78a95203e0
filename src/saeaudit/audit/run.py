"""Run an audit: load, harvest, then for each tuned model train, choose, detect, hold, prove, and write findings.

A tuned model that computes just what the base computes is not harvested: that is the finding.

Several tuned models of one base share the harvest: the base runs once. Each has its own output directory with
`findings.json`, its dictionaries and its stage records; a killed run continues with the same command.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from saeaudit.activations import ActivationStore
from saeaudit.artifacts import directory_lock
from saeaudit.audit.causal import ablation_stage, behaviour_stage
from saeaudit.audit.changed_sites import SiteRecord, site_stage
from saeaudit.audit.choice import choice_stage
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.corpus_data import is_corpus_audit, prepare_corpus
from saeaudit.audit.corpus_run import audit_corpus, unranked
from saeaudit.audit.data import AuditData, check_files, prepare
from saeaudit.audit.detect import detection_stage
from saeaudit.audit.dictionaries import dictionary_stage
from saeaudit.audit.equality import LOGITS, EqualityRecord, equality_stage
from saeaudit.audit.exhibits import exhibit_stage
from saeaudit.audit.output import Activations, claim, require_own
from saeaudit.audit.prove import proof_stage
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Silent, Stages, Watcher
from saeaudit.audit.summarise import Header, Measurements, abstained, identical, summarise
from saeaudit.audit.workbench import Workbench, open_workbench
from saeaudit.errors import ConfigError, EvidenceError
from saeaudit.findings import FILE_NAME, Findings, save_findings


@dataclass(frozen=True)
class AuditResult:
    """Where the findings lie, and what they say."""

    directory: Path
    findings: Findings


def audit(config: AuditConfig, *, out: Path | str, command: str = "", watcher: Watcher | None = None) -> AuditResult:
    """Audit `config.tuned` against `config.base`; write `out/findings.json` and the dictionaries.

    Args:
        config: what to compare, on which prompts, with how much work.
        out: new directory, or one in which the same audit was begun.
        command: the command line to record.
        watcher: sees stages and progress.

    Raises:
        SaeAuditError: one of its children for everything a user can mend; what was finished stays on disk.
    """
    outs = {"tuned": Path(out)}
    return audit_many(config, {"tuned": config.tuned}, outs=outs, command=command, watcher=watcher)["tuned"]


def audit_many(
    config: AuditConfig,
    tuned: Mapping[str, str],
    *,
    outs: Mapping[str, Path],
    command: str = "",
    watcher: Watcher | None = None,
) -> dict[str, AuditResult]:
    """Audit several tuned models of one base on the same prompts, with one harvest.

    Args:
        config: as for `audit`; its `tuned` is replaced by each source in turn.
        tuned: name to source.
        outs: name to output directory.
        command: the command line to record.
        watcher: sees stages and progress.

    Raises:
        SaeAuditError: see `audit`.
    """
    watcher = watcher or Silent()
    check_files(config)
    names = list(tuned)
    first = outs[names[0]]
    configs = {name: config.model_copy(update={"tuned": tuned[name]}) for name in names}
    for name in names:
        require_own(outs[name], configs[name])  # a directory of other files is not touched, not even by a lock
    with ExitStack() as locks:
        for out in outs.values():
            locks.enter_context(directory_lock(out))
        claims = {name: claim(outs[name], configs[name]) for name in names}
        shared = Stages(first, watcher)
        bench = open_workbench(config, tuned, first, watcher)
        _require_room_for_k(config, bench.models["base"].card.d_model)
        headers = {name: Header(claims[name], bench, name, command, shared) for name in names}
        try:
            data = (prepare_corpus if is_corpus_audit(config) else prepare)(config, bench.models["base"])
        except EvidenceError as error:
            return {name: _finish(outs[name], _abstain(headers[name], error, None)) for name in names}
        activations = Activations(first, bench, data, shared, watcher)
        sessions = {
            name: _session(
                claims[name], bench, name, data, activations.store, outs[name], shared, watcher, len(names) > 1
            )
            for name in names
        }
        equality = {
            name: equality_stage(session, equal_weights=name in bench.equal_weights)
            for name, session in sessions.items()
        }
        if not all(equality[name].same or (outs[name] / FILE_NAME).is_file() for name in names):
            activations.store()
        shared.recall("harvest")
        results = {
            name: _finish(outs[name], _audit_pair(session, headers[name], equality[name]))
            for name, session in sessions.items()
        }
        if not config.keep_activations:
            activations.delete()
    return results


def _require_room_for_k(config: AuditConfig, d_model: int) -> None:
    sizes, n_latents = config.dictionary, config.dictionary.expansion * d_model
    if sizes.k > n_latents:
        raise ConfigError(
            f"dictionary.k = {sizes.k} was asked for, but dictionary.expansion = {sizes.expansion} gives a dictionary "
            f"of {n_latents} latents for a residual of {d_model} dimensions; ask for a smaller k or a larger expansion",
            code="out-of-range",
        )


def _audit_pair(session: Session, header: Header, equality: EqualityRecord) -> Findings:
    if equality.same:
        return identical(header, session, equality)
    try:
        sites = site_stage(session)
        if is_corpus_audit(session.config):
            return audit_corpus(session, header, sites)
        if not sites.differing:
            raise _nothing_to_read(session, equality)
        session = replace(session, sites=sites.differing)
        measurements = _measure(session, sites)
    except EvidenceError as error:
        return _abstain(header, error, session)
    return summarise(header, session, measurements)


def _abstain(header: Header, error: EvidenceError, session: Session | None) -> Findings:
    return (unranked if is_corpus_audit(header.config) else abstained)(header, error, session)


def _nothing_to_read(session: Session, equality: EqualityRecord) -> EvidenceError:
    advice = (
        "only their output heads differ; rank the documents of a corpus instead (--corpus without examples)"
        if equality.first_difference == LOGITS
        else f"they first differ at {equality.first_difference}; read that block or later ones (--layers)"
    )
    return EvidenceError(
        f"at {', '.join(session.sites)} the two models do not differ in a way that a dictionary could learn: {advice}",
        code="no-difference",
    )


def _measure(session: Session, sites: SiteRecord) -> Measurements:
    rows = [dictionary_stage(session, site, "diff") for site in session.sites]
    choice = choice_stage(session)
    if session.config.dictionary.crosscoder:
        rows.append(dictionary_stage(session, choice.read_site, "crosscoder"))
    detection = detection_stage(session, choice)
    exhibits = exhibit_stage(session, choice)
    behaviour = behaviour_stage(session)
    measured = Measurements(sites, rows, choice, detection, exhibits, behaviour)
    if not behaviour.differs:
        return measured  # there is nothing to hold and nothing to bring back
    try:
        ablation = ablation_stage(session, choice, behaviour)
    except EvidenceError as error:
        return measured._replace(blocked=error)
    proof = proof_stage(session, choice, behaviour, ablation) if session.config.stress else None
    return measured._replace(ablation=ablation, proof=proof)


def _session(
    config: AuditConfig,
    bench: Workbench,
    name: str,
    data: AuditData,
    store: Callable[[], ActivationStore],
    out: Path,
    shared: Stages,
    watcher: Watcher,
    several: bool,
) -> Session:
    stages = Stages(out, watcher, label=f"{name}: " if several else "")
    pair = bench.pair(name)
    return Session(config, pair, name, bench.sites, data, cache(store), out, stages, shared, watcher, bench.precision)


def _finish(out: Path, findings: Findings) -> AuditResult:
    save_findings(findings, out / FILE_NAME)
    return AuditResult(out, findings)
