"""Whose directory a study writes into: a new one, or one in which the same study was begun."""

from pathlib import Path

from saeaudit.artifacts import contents, read_json, remove_stale, write_json
from saeaudit.audit.output import different
from saeaudit.errors import ArtifactError
from saeaudit.studies.isolation.config import IsolationConfig

STUDY_FILE = "study.json"
SCHEMA = 1
# A study may grow in these: what is there already stays what it is.
GROWS = ("families", "model_seeds", "dictionaries", "causal", "alarms", "paper", "is_evidence")


def require_own(out: Path, config: IsolationConfig) -> None:
    """Find that `out` is free for this study, or holds it already. Nothing is written.

    Raises:
        ArtifactError: `out` holds other files (`output-not-empty`), or a study with other settings than those in which
            a study may grow (`output-of-another-run`).
    """
    path = out / STUDY_FILE
    if not path.is_file():
        if contents(out):
            raise ArtifactError(
                f"{out} is not empty and holds no study; nothing is overwritten, choose another --out",
                code="output-not-empty",
            )
        return
    if changed := sorted(different(read_json(path, schema=SCHEMA)["config"], _fixed(config))):
        raise ArtifactError(
            f"{out} holds a study with other settings: {', '.join(changed[:6])} differ; choose another --out, or "
            f"delete it (a study may grow in {', '.join(GROWS)})",
            code="output-of-another-run",
        )


def claim(out: Path, config: IsolationConfig) -> None:
    """Mark `out`, whose lock is held, as the place of this study, and clear away what killed runs left half done.

    Raises:
        ArtifactError: see `require_own`.
    """
    require_own(out, config)
    for place in (out, out / "tasks"):
        remove_stale(place)
    if not (out / STUDY_FILE).is_file():
        write_json(out / STUDY_FILE, {"schema": SCHEMA, "config": _fixed(config)})


def _fixed(config: IsolationConfig) -> dict[str, object]:
    return config.model_dump(mode="json", exclude=set(GROWS))
