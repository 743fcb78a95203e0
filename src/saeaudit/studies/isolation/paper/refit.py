"""How much of the paper's score comes from fitting, thresholding, choosing and scoring on the same rows (W6)."""

from dataclasses import dataclass

from saeaudit.detection import PairedRows, group_folds
from saeaudit.errors import EvidenceError
from saeaudit.studies.isolation.paper.cells import benign_rows, score_latents
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.methods import fit_method
from saeaudit.studies.isolation.paper.names import PaperMethod


@dataclass(frozen=True)
class Refit:
    """The score of a method on the rows that made it and on rows that did not (0..1).

    Attributes:
        fitted: mean over folds of the BIS of the best latent on the rows that fitted, thresholded and chose it.
        fresh: BIS of the same latents at the same thresholds on the rows left out, counted over all folds.
        n_folds: how often everything was done again.
        n_rows: rows, each of them left out once.
    """

    fitted: float
    fresh: float
    n_folds: int
    n_rows: int

    @property
    def optimism(self) -> float:
        """What the same rows add to the score."""
        return self.fitted - self.fresh


def refit(rows: PairedRows, method: PaperMethod, config: PaperConfig | None = None) -> Refit:
    """Do all of the experiment again without each fold, and score what was chosen on the fold; templates stay whole.

    Raises:
        EvidenceError: there are fewer than two templates of a class (`too-few-groups`), or a fold's rows lack a class.
    """
    config = config or PaperConfig()
    folds = group_folds(rows.group, rows.label, n_folds=config.n_folds, seed=config.seed)
    n_folds = int(folds.max()) + 1
    if n_folds < 2:
        raise EvidenceError(
            "a refit needs at least two templates with trigger rows and two without; give more templates",
            code="too-few-groups",
        )
    fitted, true_positive, n_active, false_positive = 0.0, 0, 0, 0
    for fold in range(n_folds):
        made, left_out = rows.take(folds != fold), rows.take(folds == fold)
        activate = fit_method(made, method, config).activate
        activations = activate(made)
        found = score_latents(activations, made.label, benign_rows(made), tail=config.tail)
        fitted += float(found.bis[found.best]) / n_folds
        threshold = activations[:, found.best].double().quantile(1 - config.tail)
        active = activate(left_out)[:, found.best].double() > threshold
        true_positive += int((active & left_out.label).sum())
        n_active += int(active.sum())
        false_positive += int((active & benign_rows(left_out)).sum())
    f1 = 2 * true_positive / (n_active + int(rows.label.sum()))
    return Refit(fitted, f1 * (1 - false_positive / int(benign_rows(rows).sum())), n_folds, len(rows))
