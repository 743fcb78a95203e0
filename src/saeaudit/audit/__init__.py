"""The audit: everything composed for one base and its tuned models."""

from saeaudit.audit.config import AuditConfig
from saeaudit.audit.run import AuditResult, audit, audit_many
from saeaudit.audit.stages import Silent, Watcher

__all__ = ["AuditConfig", "AuditResult", "Silent", "Watcher", "audit", "audit_many"]
