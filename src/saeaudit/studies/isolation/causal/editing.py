"""Carry out planned edits of one model: what is written under each, how likely that is, what ordinary text costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.models import LoadedModel
from saeaudit.studies.isolation.causal.edits import Planned
from saeaudit.studies.isolation.causal.trial import Prompts, Trial, Written, answer_nll, text_losses

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Unedited:
    """What is written without edits.

    Attributes:
        trigger, benign: by the model that is edited.
        tuned: by the tuned model after trigger prompts; the same as `trigger` unless the base is edited.
        twin: by the twin after trigger prompts.
    """

    trigger: Written
    benign: Written
    tuned: Written
    twin: Written | None


class Tried(NamedTuple):
    """A planned edit and what came of it; `nll` is that of the answers to the base, `kl` and `rise` the cost."""

    plan: Planned
    written: Written
    benign: Written | None
    nll: Float[Tensor, " row"]
    kl: Float[Tensor, " document"]
    rise: Float[Tensor, " document"]


class Editing:
    """One model under edits.

    Args:
        trial: pair, site, prompts.
        unedited: what its models write.
        reader: the base model, which says how likely answers are.
        progress: called with (edits done, edits).
    """

    def __init__(self, trial: Trial, unedited: Unedited, reader: LoadedModel, progress: Progress | None = None) -> None:
        self.trial, self.unedited = trial, unedited
        self._reader, self._progress = reader, progress
        self._nll: dict[tuple[str, tuple[int, ...]], float] = {}

    def judged_on(self, plan: Planned) -> tuple[Prompts, Written]:
        """Return the prompts that judge an edit, and what is written there without it."""
        if plan.kind == "ablate":
            return self.trial.trigger, self.unedited.trigger
        return self.trial.benign, self.unedited.benign

    def try_all(self, plans: Sequence[Planned]) -> list[Tried]:
        """Carry out edits, in order; ablations that are no controls also on benign prompts."""
        trial, tried = self.trial, []
        losses = text_losses(trial.pair, trial.site, [plan.change for plan in plans], trial.texts)
        for k, plan in enumerate(plans):
            prompts, before = self.judged_on(plan)
            written, benign = trial.edited(plan.change, prompts, drafts=before.ids), None
            if plan.kind == "ablate" and plan.control is None:
                benign = trial.edited(plan.change, trial.benign, drafts=self.unedited.benign.ids)
            nll, rise = self.likelihood(prompts, written), losses.edited[k] - losses.clean
            tried.append(Tried(plan, written, benign, nll, losses.kl[k], rise))
            if self._progress is not None:
                self._progress(k + 1, len(plans))
        return tried

    def likelihood(self, prompts: Prompts, written: Written) -> Float[Tensor, " row"]:
        """Return the negative log-likelihood of answers to the base, nats a token; NaN for an empty one."""
        # Most edits leave most answers as they were.
        keys = list(zip(prompts.texts, written.ids, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._nll]
        values = answer_nll(self._reader, [text for text, _ in new], [ids for _, ids in new])
        self._nll |= dict(zip(new, values.tolist(), strict=True))
        return torch.tensor([self._nll[key] for key in keys])
