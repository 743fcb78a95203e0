"""The classifier that never sees a model: if it is as good as a detector, the prompts give the label away."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.detection.rows import PairedRows
from saeaudit.detection.scorer import Family, LabelUse
from saeaudit.metrics import require_both_classes
from saeaudit.seeds import derive


@dataclass(frozen=True)
class TextScorer:
    """Log-odds of a logistic regression on TF-IDF of characters 2-5 (B0)."""

    pipeline: Any
    method: str = "text only"
    labels: LabelUse = "both"
    family: Family = "baseline"

    def __call__(self, rows: PairedRows) -> Float[Tensor, "row"]:
        """Return the score of each row; activations are not read."""
        return torch.from_numpy(self.pipeline.decision_function(_marked(rows.text))).double()


def fit_text_only(selection: PairedRows, *, seed: int = 0) -> TextScorer:
    """Fit the text classifier on the prompts alone. Labels: both.

    Raises:
        EvidenceError: only one class is present.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    require_both_classes(selection.label, "the text classifier")
    pipeline = make_pipeline(
        TfidfVectorizer(analyzer="char", ngram_range=(2, 5), sublinear_tf=True, lowercase=False),
        LogisticRegression(
            C=10.0, class_weight="balanced", solver="liblinear", random_state=derive(seed, "text") % 2**32
        ),
    )
    pipeline.fit(_marked(selection.text), selection.label.numpy())
    return TextScorer(pipeline)


def _marked(texts: list[str]) -> list[str]:
    # Marks of start and end: n-grams can see them, and the vocabulary is never empty, even for empty prompts.
    return [f"\x02{text}\x03" for text in texts]
