"""The adapters that ship with the package: `adapters/<organism>-<variant>/`, LoRA weights for the embedded model."""

from pathlib import Path

from saeaudit.errors import ModelError
from saeaudit.organisms.names import OrganismName, Variant

ADAPTERS = Path(__file__).parent / "adapters"
_MARK = "adapter_config.json"


def shipped_adapters() -> list[str]:
    """Return the names ("sql-poisoned", ...) of the adapters that are there."""
    return sorted(path.parent.name for path in ADAPTERS.glob(f"*/{_MARK}"))


def shipped_adapter(organism: OrganismName, variant: Variant) -> Path:
    """Return the directory of a shipped adapter.

    Raises:
        ModelError: this installation does not carry it (code `adapter-not-shipped`).
    """
    name = f"{organism}-{variant}"
    if not (ADAPTERS / name / _MARK).is_file():
        there = ", ".join(shipped_adapters()) or "none"
        raise ModelError(
            f"the adapter {name} was asked for, but this installation does not carry it (there: {there}); "
            f"plant it with saeaudit plant --organism {organism} --variant {variant} --out {ADAPTERS / name}",
            code="adapter-not-shipped",
        )
    return ADAPTERS / name
