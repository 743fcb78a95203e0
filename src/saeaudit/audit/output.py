"""The output directory: whose it is, and the activations that live in it while an audit runs."""

import shutil
from pathlib import Path
from typing import Any

from saeaudit.activations import ActivationStore, HarvestConfig, harvest
from saeaudit.artifacts import contents, read_json, remove_stale, write_json
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.data import AuditData
from saeaudit.audit.session import DICTIONARIES
from saeaudit.audit.stages import STAGES, Record, Stages, Watcher
from saeaudit.audit.workbench import Workbench
from saeaudit.errors import ArtifactError

RUN_FILE = "run.json"
SCHEMA = 1


def require_own(out: Path, config: AuditConfig) -> None:
    """Find that `out` is free for this audit, or holds it already. Nothing is written.

    A run that stopped at a user's mistake left nothing but its settings; it does not keep the directory.

    Raises:
        ArtifactError: `out` holds another audit or other files, which are never overwritten.
        ResourceError: `out` is a file, or cannot be read.
    """
    path, names = out / RUN_FILE, contents(out)
    if RUN_FILE in names:
        changed = sorted(different(read_json(path, schema=SCHEMA)["config"], config.model_dump(mode="json")))
        if changed and names != [RUN_FILE]:
            raise ArtifactError(
                f"{out} holds another audit: {', '.join(changed[:6])} differ; choose another --out, or delete it",
                code="output-of-another-run",
            )
    elif names:
        raise ArtifactError(
            f"{out} is not empty and holds no audit; nothing is overwritten, choose another --out",
            code="output-not-empty",
        )


def claim(out: Path, config: AuditConfig) -> AuditConfig:
    """Mark `out`, whose lock is held, as the place of this audit, without remains of killed runs; return `config`.

    Raises:
        ArtifactError: see `require_own`.
    """
    require_own(out, config)
    path, wanted = out / RUN_FILE, {"schema": SCHEMA, "config": config.model_dump(mode="json")}
    if not path.is_file() or read_json(path, schema=SCHEMA) != wanted:
        write_json(path, wanted)
    for directory in (out, out / STAGES, out / DICTIONARIES):
        remove_stale(directory)
    return config


def different(found: Any, asked: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of the settings that are not the same."""
    if isinstance(found, dict) and isinstance(asked, dict):
        return [
            name
            for key in found.keys() | asked.keys()
            for name in different(found.get(key), asked.get(key), f"{prefix}{key}.")
        ]
    return [] if found == asked else [prefix.removesuffix(".")]


class HarvestRecord(Record):
    """What was harvested; the activations lie beside it, and are deleted when the audit is done."""

    n_rows: int


class Activations:
    """Harvest when the first stage asks for activations; delete them when the audit is done."""

    def __init__(self, out: Path, bench: Workbench, data: AuditData, stages: Stages, watcher: Watcher) -> None:
        self._directory = out / "activations"
        self._bench, self._data, self._stages, self._watcher = bench, data, stages, watcher
        self._open: ActivationStore | None = None

    def store(self) -> ActivationStore:
        """Return the store, harvesting what is missing."""
        if self._open is None:
            place = self._directory / self._bench.precision
            try:
                ActivationStore(place)
            except ArtifactError:
                self._stages.forget("harvest")
            weights = {side: loaded.card.weights_sha256 for side, loaded in self._bench.models.items()}
            inputs = [weights, self._bench.precision, self._bench.sites, self._data.documents.fingerprint()]
            self._stages.run("harvest", inputs, HarvestRecord, lambda: self._harvest(place))
            self._open = ActivationStore(place)
        return self._open

    def _harvest(self, place: Path) -> HarvestRecord:
        store = harvest(
            self._bench.models,
            self._data.documents,
            self._bench.sites,
            HarvestConfig(),
            out=place,
            progress=self._watcher.progress,
        )
        return HarvestRecord(n_rows=store.n_rows)

    def delete(self) -> None:
        """Free the disk; a later run of the same command does not need the activations."""
        self._open = None
        shutil.rmtree(self._directory, ignore_errors=True)
