"""Every error a user can cause, under one root.

The text of an error says three things: what was asked, what was found, what to do next. The `code` names the
case for programs and tests (`unknown-site`, `tokenizer-mismatch`, ...). The command line prints the text without
a traceback and exits with 2.
"""


class SaeAuditError(Exception):
    """Root of all errors raised for a reason that the user can act on."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class ConfigError(SaeAuditError):
    """A setting is missing, contradictory or out of range."""


class InputError(SaeAuditError):
    """A file of prompts, a corpus or another input of the user cannot be used."""


class ModelError(SaeAuditError):
    """A model, adapter, tokenizer or site cannot be used as asked."""


class ArtifactError(SaeAuditError):
    """Something saeaudit wrote earlier is broken, foreign, locked or of another version."""


class NumericsError(SaeAuditError):
    """A number became NaN or infinite, or is below the noise that produced it."""


class EvidenceError(SaeAuditError):
    """The data cannot support the statement that was asked for."""


class ResourceError(SaeAuditError):
    """Disk, memory or time ran out."""


class MissingExtra(SaeAuditError):
    """An optional dependency is needed; the text contains the install command."""
