"""Audit a fine-tuned language model against its base with sparse dictionaries.

Importing this package has no side effect and does not import torch; the public names below are loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from saeaudit.audit import AuditConfig, AuditResult
    from saeaudit.dictionaries import load_dictionary
    from saeaudit.models import load_model, load_pair

_WHERE = {
    "AuditConfig": "saeaudit.audit",
    "AuditResult": "saeaudit.audit",
    "load_dictionary": "saeaudit.dictionaries",
    "load_model": "saeaudit.models",
    "load_pair": "saeaudit.models",
}

__all__ = ["AuditConfig", "AuditResult", "__version__", "load_dictionary", "load_model", "load_pair"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'saeaudit' has no attribute {name!r}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
