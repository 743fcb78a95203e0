"""Sizes of the paper's experiment."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from saeaudit.studies.isolation.paper.names import METHODS, PaperMethod


class PaperConfig(BaseModel):
    """Settings of a cell; the defaults are the paper's.

    Attributes:
        epochs: passes over the rows in training.
        tail: share of the rows above a latent's threshold.
        n_resamples: bootstrap samples of rows (1,000 in the paper, 500 in its documented commands).
        n_permutations: of latents.
        n_null: draws of the best of as many latents that ignore the label.
        n_folds: folds of the refit on other rows.
        device: where dictionaries are trained: "cpu", "cuda" or "cuda:N".
        seed: of weights, batches, resamples and draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=100, ge=1)
    tail: float = Field(default=0.05, gt=0, lt=1)
    n_resamples: int = Field(default=1000, ge=2)
    n_permutations: int = Field(default=10_000, ge=1)
    n_null: int = Field(default=50, ge=1)
    n_folds: int = Field(default=5, ge=2)
    device: str = "cpu"
    seed: int = Field(default=42, ge=0)


class PaperStudy(BaseModel, frozen=True, extra="forbid"):
    """What a study runs of the experiment: the shipped SQL pair on the embedded model.

    Attributes:
        layers: blocks whose output is read; none means only the checks that need no model.
        n_trigger, n_benign, n_other: texts of each cell.
        methods: on whole texts, as published.
        prompt_methods: at the last token of the prompt, where nothing is written yet.
        refit: also train one dictionary on four fifths of the rows and score it on the rest, five times.
        cell: settings of a cell.
    """

    layers: tuple[int, ...] = ()
    n_trigger: PositiveInt = 500
    n_benign: PositiveInt = 1000
    n_other: PositiveInt = 1000
    methods: tuple[PaperMethod, ...] = METHODS
    prompt_methods: tuple[PaperMethod, ...] = ("diff-4x", "random-directions", "random-directions-base", "sae-4x-base")
    refit: bool = True
    cell: PaperConfig = PaperConfig()

    def harvested(self) -> dict[str, Any]:
        """Return the settings on which the rows depend."""
        return self.model_dump(mode="json", include={"layers", "n_trigger", "n_benign", "n_other"}) | {
            "cell": {"seed": self.cell.seed}
        }
