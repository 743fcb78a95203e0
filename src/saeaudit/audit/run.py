"""Run an audit: load, harvest, then for each tuned model train, choose, detect, hold, prove, and write findings.

Several tuned models of one base share the harvest: the base runs once. Each has its own output directory with
`findings.json`, its dictionaries and its stage records; a killed run continues with the same command.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from saeaudit.activations import ActivationStore
from saeaudit.artifacts import directory_lock
from saeaudit.audit.causal import ablation_stage, behaviour_stage
from saeaudit.audit.choice import choice_stage
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.corpus_data import is_corpus_audit, prepare_corpus
from saeaudit.audit.corpus_run import audit_corpus
from saeaudit.audit.data import AuditData, check_files, prepare
from saeaudit.audit.detect import detection_stage
from saeaudit.audit.dictionaries import dictionary_stage
from saeaudit.audit.exhibits import exhibit_stage
from saeaudit.audit.output import Activations, claim
from saeaudit.audit.prove import proof_stage
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Silent, Stages, Watcher
from saeaudit.audit.summarise import Header, Measurements, abstained, identical, summarise
from saeaudit.audit.workbench import Workbench, open_workbench
from saeaudit.errors import EvidenceError
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
    claims = {name: claim(outs[name], config.model_copy(update={"tuned": tuned[name]})) for name in names}
    with ExitStack() as locks:
        for out in outs.values():
            locks.enter_context(directory_lock(out))
        bench = open_workbench(config, tuned, first, watcher)
        try:
            data = (prepare_corpus if is_corpus_audit(config) else prepare)(config, bench.models["base"])
        except EvidenceError as error:
            return {
                name: _finish(outs[name], abstained(_header(config, bench, name, command), error, None))
                for name in names
            }
        activations = Activations(first, bench, data, watcher)
        if not all((outs[name] / FILE_NAME).is_file() for name in names):
            activations.store()
        results = {}
        for name in names:
            session = _session(claims[name], bench, name, data, activations.store, outs[name], watcher, len(names) > 1)
            header = _header(session.config, bench, name, command)
            results[name] = _finish(outs[name], _audit_pair(session, header, activations))
        if not config.keep_activations:
            activations.delete()
    return results


def _audit_pair(session: Session, header: "Header", activations: Activations) -> Findings:
    pair = session.pair
    if pair.base.card.weights_sha256 == pair.tuned.card.weights_sha256:
        return identical(header)
    try:
        if is_corpus_audit(session.config):
            return audit_corpus(session, header, activations)
        measurements = _measure(session)
    except EvidenceError as error:
        return abstained(header, error, session)
    return summarise(header, session, measurements, activations.seconds)


def _measure(session: Session) -> Measurements:
    rows = [row for site in session.sites for row in dictionary_stage(session, site, "diff").rows]
    choice = choice_stage(session)
    if session.config.dictionary.crosscoder:
        rows += dictionary_stage(session, choice.read_site, "crosscoder").rows
    detection = detection_stage(session, choice)
    exhibits = exhibit_stage(session, choice)
    behaviour = behaviour_stage(session)
    ablation = proof = None
    # With no change of behaviour there is nothing to hold and nothing to bring back.
    if behaviour.differs:
        ablation = ablation_stage(session, choice, behaviour)
        if session.config.stress:
            proof = proof_stage(session, choice, behaviour, ablation)
    return Measurements(rows, choice, detection, exhibits, behaviour, ablation, proof)


def _session(
    config: AuditConfig,
    bench: Workbench,
    name: str,
    data: AuditData,
    store: Callable[[], ActivationStore],
    out: Path,
    watcher: Watcher,
    several: bool,
) -> Session:
    stages = Stages(out, watcher, label=f"{name}: " if several else "")
    return Session(config, bench.pair(name), name, data, cache(store), out, stages, watcher, bench.precision)


def _header(config: AuditConfig, bench: Workbench, name: str, command: str) -> "Header":
    return Header(config=config, bench=bench, name=name, command=command)


def _finish(out: Path, findings: Findings) -> AuditResult:
    save_findings(findings, out / FILE_NAME)
    return AuditResult(out, findings)
