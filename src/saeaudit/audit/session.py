"""What the stages of one pair share: models, data, store, settings, places on disk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from saeaudit.activations import ActivationStore
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.data import AuditData
from saeaudit.audit.stages import Stages, Watcher
from saeaudit.detection import PairedRows, Role
from saeaudit.detection.outcome import Judge
from saeaudit.dictionaries import Dictionary, Folded, load_dictionary
from saeaudit.interventions import Clamp, LatentEdit
from saeaudit.models import Pair
from saeaudit.organisms.spec import ORGANISMS

DICTIONARIES = "dictionaries"


@dataclass(frozen=True)
class Session:
    """One pair under audit.

    Attributes:
        config: settings.
        pair: base and tuned model, in the precision of the run.
        side: name of the tuned model in the store.
        sites: sites that are read, in order of depth.
        data: prompts, roles, documents.
        store: activations; None once they were deleted after the last stage that reads them.
        out: directory of this pair's results.
        stages: runs and remembers stages.
        shared: the same for stages that do not read the tuned model, in one place for all pairs of the audit.
        watcher: sees progress.
        precision: "float32" or "mixed", as run.
    """

    config: AuditConfig
    pair: Pair
    side: str
    sites: list[str]
    data: AuditData
    store: Callable[[], ActivationStore]
    out: Path
    stages: Stages
    shared: Stages
    watcher: Watcher
    precision: str

    @cached_property
    def judge(self) -> Judge | None:
        """The judge asked for: True where a continuation shows the behaviour."""
        name = self.config.judge
        if name == "none":
            return None
        judge = ORGANISMS[name].judge
        return lambda prompt, completion: judge(prompt, completion) == "bad"

    def identity(self, *parts: object) -> list[object]:
        """Return what every stage's hash starts with: models, data, seed, precision; then the stage's own parts."""
        cards = [self.pair.base.card.weights_sha256, self.pair.tuned.card.weights_sha256]
        return [cards, self.precision, self.data.fingerprint(), self.config.seed, self.sites, *parts]

    def dictionary_path(self, site: str, kind: str) -> Path:
        """Return where a dictionary lies."""
        return self.out / DICTIONARIES / f"{site}-{kind}"

    def dictionary(self, site: str, kind: str = "diff") -> Dictionary:
        """Load a trained dictionary."""
        return load_dictionary(self.dictionary_path(site, kind))

    def rows(self, site: str, role: Role) -> PairedRows:
        """Return the prompts of a role at a site."""
        return self.data.paired_rows(self.store(), site, self.side, role)

    def edit(self, folded: Folded, site: str, latents: tuple[int, ...]) -> LatentEdit:
        """Return the ablation of some latents of a Diff-SAE."""
        return LatentEdit(folded, Clamp(site, latents, "zero"))


def all_latents(dictionary: Dictionary) -> torch.Tensor:
    """Return the numbers of all latents."""
    return torch.arange(dictionary.n_latents)
