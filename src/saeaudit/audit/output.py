"""The output directory: whose it is, and the activations that live in it while an audit runs."""

import shutil
import time
from pathlib import Path
from typing import Any

from saeaudit.activations import ActivationStore, HarvestConfig, harvest
from saeaudit.artifacts import LOCK_NAME, read_json, write_json
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.data import AuditData
from saeaudit.audit.stages import Watcher
from saeaudit.audit.workbench import Workbench
from saeaudit.errors import ArtifactError

RUN_FILE = "run.json"
SCHEMA = 1
# A kill may leave a lock and half of the run's own file.
OWN = (LOCK_NAME, f".{RUN_FILE}.tmp-")


def require_own(out: Path, config: AuditConfig) -> None:
    """Find that `out` is free for this audit, or holds it already. Nothing is written.

    A run that stopped at a user's mistake left nothing but its settings; it does not keep the directory.

    Raises:
        ArtifactError: `out` holds another audit or other files, which are never overwritten.
    """
    path = out / RUN_FILE
    names = [p.name for p in out.iterdir() if not p.name.startswith(OWN)] if out.is_dir() else []
    if path.is_file():
        different = sorted(_different(read_json(path, schema=SCHEMA)["config"], config.model_dump(mode="json")))
        if different and names != [RUN_FILE]:
            raise ArtifactError(
                f"{out} holds another audit: {', '.join(different[:6])} differ; choose another --out, or delete it",
                code="output-of-another-run",
            )
    elif names:
        raise ArtifactError(
            f"{out} is not empty and holds no audit; nothing is overwritten, choose another --out",
            code="output-not-empty",
        )


def claim(out: Path, config: AuditConfig) -> AuditConfig:
    """Mark `out`, whose lock is held, as the place of this audit; return `config`.

    Raises:
        ArtifactError: see `require_own`.
    """
    require_own(out, config)
    path, wanted = out / RUN_FILE, {"schema": SCHEMA, "config": config.model_dump(mode="json")}
    if not path.is_file() or read_json(path, schema=SCHEMA) != wanted:
        write_json(path, wanted)
    return config


def _different(found: Any, asked: Any, prefix: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(asked, dict):
        return [
            name
            for key in found.keys() | asked.keys()
            for name in _different(found.get(key), asked.get(key), f"{prefix}{key}.")
        ]
    return [] if found == asked else [prefix.removesuffix(".")]


class Activations:
    """Harvest when the first stage asks for activations; delete them when the audit is done."""

    def __init__(self, out: Path, bench: Workbench, data: AuditData, watcher: Watcher) -> None:
        self._directory = out / "activations"
        self._bench, self._data, self._watcher = bench, data, watcher
        self._open: ActivationStore | None = None
        self.seconds = 0.0

    def store(self) -> ActivationStore:
        """Return the store, harvesting what is missing."""
        if self._open is None:
            self._watcher.stage("harvest")
            start = time.monotonic()
            self._open = harvest(
                self._bench.models,
                self._data.documents,
                self._bench.sites,
                HarvestConfig(),
                out=self._directory / self._bench.precision,
                progress=self._watcher.progress,
            )
            self.seconds = time.monotonic() - start
        return self._open

    def delete(self) -> None:
        """Free the disk; a later run of the same command does not need the activations."""
        self._open = None
        shutil.rmtree(self._directory, ignore_errors=True)
