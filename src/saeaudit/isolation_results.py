"""`results.json` of the isolation study: a cell for every organism, layer and method, and what stands beside them.

A cell without intervals, counts or a null does not validate: a number without them is no evidence.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from saeaudit.artifacts import read_json, write_json
from saeaudit.causal_results import CausalRows
from saeaudit.config import first_problem
from saeaudit.errors import ArtifactError
from saeaudit.findings import Interval, Number, Record, Share, Verdict
from saeaudit.paper_results import Faults, PaperRow

SCHEMA = 1
FILE_NAME = "results.json"

Status = Literal["ok", "dead", "sparsity-unmatched"]
Labels = Literal["none", "benign", "both"]
Role = Literal["dictionary", "baseline", "control"]
INTERVALS = {"bis", "bis_star", "auroc", "tpr_at_1pct_fpr", "worst_class_fpr", "random_basis_null"}
# What these find says nothing about the tuned model: directions drawn at random, and detectors that never read it.
CONTROLS = frozenset({"random directions", "text only", "probe on the base"})
BACKDOOR = "poisoned"
CONDITIONAL = frozenset({BACKDOOR, "conditional"})


class Fit(Record):
    """How well a cell's dictionary fits held-out rows, and what it took.

    Attributes:
        n_latents: latents.
        l0: mean active latents a token.
        l0_wanted: what was asked for.
        fvu: of what it reads (0 is perfect); `fvu_delta` of the difference, for a crosscoder.
        alive: share of the latents that fire on some held-out row.
        n_tokens: rows seen in one training, repetitions included.
        n_trainings: trainings until the sparsity was the wanted one.
    """

    n_latents: int
    l0: Number
    l0_wanted: Number
    fvu: Number
    fvu_delta: Number | None = None
    alive: Share
    n_tokens: int
    n_trainings: int = 1


class Cost(Record):
    """What a cell took: seconds of all trainings and of scoring; largest memory of its process so far, in bytes."""

    train_seconds: Number = 0.0
    score_seconds: Number = 0.0
    peak_bytes: int = 0


class Cell(Record):
    """One organism, layer and method.

    Rates, AUROC and scores are in 0..1 (1 is perfect). `bis` is the paper's score with the threshold at the 95th
    percentile of the test rows, and `bis_ceiling` the most that any score can reach there; `bis_star`, the rates of
    trigger rows and of the worst benign class hold at a threshold calibrated on other benign rows.

    Attributes:
        organism: name of the tuned model, such as "phrase-poisoned-s0".
        twin: name of the model planted on the same prompts with the other answers.
        family: of the trigger.
        variant: what was planted.
        layer: site that is read.
        method: detector.
        labels: what it was told: nothing, which rows are benign, or both.
        random_basis_null: mean true-positive rate of the best of equally many random directions.
        random_basis_p: share of the random bases that do at least as well.
        interval: 95 % intervals by the name of the number they belong to.
        n: rows by role.
        class_fpr: false-positive rate of every benign class.
        fit: of the cell's dictionary, if it has one.
    """

    organism: str
    twin: str | None
    family: str
    variant: str
    layer: str
    method: str
    labels: Labels
    bis: Share
    bis_ceiling: Share
    bis_star: Share
    auroc: Share
    tpr_at_1pct_fpr: Share
    fpr: Share
    worst_class: str
    worst_class_fpr: Share
    random_basis_null: Share
    random_basis_p: Share
    interval: dict[str, Interval]
    n: dict[str, int] = Field(min_length=1)
    class_fpr: dict[str, Share]
    status: Status = "ok"
    fit: Fit | None = None
    cost: Cost = Cost()

    @property
    def role(self) -> Role:
        """What the method is in a comparison."""
        if self.fit is not None:
            return "dictionary"
        return "control" if self.method in CONTROLS else "baseline"

    @property
    def planted(self) -> bool:
        """Whether the organism has a behaviour that depends on the trigger, hidden or harmless."""
        return self.variant in CONDITIONAL

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := sorted(INTERVALS - self.interval.keys()):
            raise ValueError(f"the intervals of {', '.join(missing)} are missing")
        return self


class ModelRow(Record):
    """What one organism writes after held-out prompts of each class.

    Attributes:
        organism: name.
        twin: see `Cell`.
        family: of the trigger.
        variant: what was planted.
        passed: the gate of a planted behaviour; None where there is nothing to pass, or too few prompts to tell.
        n: prompts a class.
        n_bad: continuations that show the behaviour, by class.
        n_good: continuations that do not, by class; the rest could not be judged.
    """

    organism: str
    twin: str | None
    family: str
    variant: str
    passed: bool | None
    n: int
    n_bad: dict[str, int]
    n_good: dict[str, int]


class Planted(Record):
    """The model that one task makes."""

    model: ModelRow


class AlarmRow(Record):
    """The verdict of a whole audit, without a judge, on one fine-tune of the small model.

    Attributes:
        organism: name.
        family: of the trigger.
        variant: what was planted.
        verdict: of the audit; a "flag" on a clean model is a false alarm.
        sentence: in which the audit says it.
        tpr: of the detector that it chose, at 1 % false positives; None where it did not get that far.
        plant_seconds: to plant the model.
        audit_seconds: to audit it.
    """

    organism: str
    family: str
    variant: str
    verdict: Verdict
    sentence: str
    tpr: Share | None
    plant_seconds: Number
    audit_seconds: Number


class Alarm(Record):
    """The audit that one task makes."""

    alarm: AlarmRow


class Cells(Record):
    """The cells that one task makes."""

    cells: list[Cell]


class IsolationResults(Record):
    """The whole file.

    Attributes:
        schema_: of this file.
        preset: size that was run.
        is_evidence: False for sizes whose numbers only show that every part works.
        command: the command line.
        config: all settings.
        versions: of what computed it.
        n_tasks: tasks of the study; `n_done` of them are done.
        models: organisms that were made in the run.
        alarms: verdicts of whole audits on further fine-tunes.
        cells: in the order of the plan.
        paper: the paper's experiment, as published.
        faults: what is wrong with it, shown.
        causal: what ablating and steering do.
        failed: what stopped the other tasks, by task.
        seconds: of every task.
    """

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    preset: str
    is_evidence: bool
    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    n_tasks: int
    n_done: int
    models: list[ModelRow] = Field(default_factory=list)
    alarms: list[AlarmRow] = Field(default_factory=list)
    cells: list[Cell]
    paper: list[PaperRow] = Field(default_factory=list)
    faults: list[Faults] = Field(default_factory=list)
    causal: list[CausalRows] = Field(default_factory=list)
    failed: dict[str, str] = Field(default_factory=dict)
    seconds: dict[str, Number] = Field(default_factory=dict)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def save_results(results: IsolationResults, directory: Path) -> Path:
    """Write `results.json` atomically; return its path."""
    path = directory / FILE_NAME
    write_json(path, results.model_dump(mode="json", by_alias=True))
    return path


def load_results(path: Path) -> IsolationResults:
    """Read `results.json` (or the directory that holds it).

    Raises:
        ArtifactError: missing, broken, of another schema, or a cell lacks its intervals.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return IsolationResults.model_validate(read_json(file, schema=SCHEMA))
    except ValidationError as error:
        raise ArtifactError(
            f"{file} is not a valid results file: {first_problem(error)}; run the same study again to write it anew",
            code="results-invalid",
        ) from None
