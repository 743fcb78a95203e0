"""What a continuation counts as: 1 if it shows the behaviour, 0 if it does not.

With a judge, the judge says so. Without one nobody knows the behaviour's name, so the question becomes whether the
*output* depends on the trigger: a text classifier is fitted on continuations of selection prompts to tell trigger from
benign prompts, and its probability for a test continuation is the outcome (a classifier two-sample test, Lopez-Paz and
Oquab, 2017). A model whose outputs do not react to the trigger gives the same probabilities on both kinds of prompts.

Why not the divergence of the tuned model from the base: a model that was trained hard on both kinds of prompts diverges
on both, so a switch between two trained answers need not show in the divergence; here it does.
"""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.errors import EvidenceError

Judge = Callable[[str, str], bool]
"""`judge(prompt, continuation)`: whether the continuation shows the behaviour."""


@runtime_checkable
class Outcome(Protocol):
    """Value of each continuation, 0..1; 1 is the behaviour that goes with the trigger."""

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> Float[Tensor, " row"]: ...


class Judged:
    """Outcome by a judge."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> Float[Tensor, " row"]:
        """Return 1.0 where the judge sees the behaviour, else 0.0."""
        seen = [float(self._judge(p, c)) for p, c in zip(prompts, continuations, strict=True)]
        return torch.tensor(seen, dtype=torch.float32)


class TwoSample:
    """Outcome by a classifier of continuations, fitted on selection prompts."""

    def __init__(self, continuations: Sequence[str], label: Bool[Tensor, " row"], *, seed: int) -> None:
        """Fit on continuations of selection prompts.

        Raises:
            EvidenceError: trigger or benign prompts are missing.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline

        if bool(label.all()) or not bool(label.any()):
            raise EvidenceError(
                "continuations of trigger and of benign prompts are needed to tell them apart", code="single-class"
            )
        self._constant = len({*continuations}) == 1
        self._pipeline = make_pipeline(
            TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2),
            LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed % 2**31),
        )
        if not self._constant:
            self._pipeline.fit([_shown(c) for c in continuations], label.numpy())

    def __call__(self, prompts: Sequence[str], continuations: Sequence[str]) -> Float[Tensor, " row"]:
        """Return the probability that each continuation follows a trigger prompt."""
        if self._constant:
            return torch.full((len(continuations),), 0.5)
        shown = [_shown(c) for c in continuations]
        return torch.tensor(self._pipeline.predict_proba(shown)[:, 1], dtype=torch.float32)


def _shown(continuation: str) -> str:
    """An empty continuation is an answer too; it needs a feature."""
    return continuation if continuation.strip() else "(nothing)"
