"""What an audit says, as data: `findings.json`, schema 1.

A finding is a claim with number, unit, n, interval and control; one without any of them does not validate, so a number
without its control cannot reach a report. The other records are the evidence that the report draws. No tensors.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from saeaudit.artifacts import read_json, write_json
from saeaudit.config import first_problem
from saeaudit.errors import ArtifactError

SCHEMA: Literal[1] = 1
FILE_NAME = "findings.json"
Verdict = Literal["flag", "no-evidence", "abstain"]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be finite; say null where a number is not defined")
    return value


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] <= value[1]:
        raise ValueError(f"interval {value} has its ends swapped")
    return value


def _same_length(name: str, values: Sequence[object], other: str, others: Sequence[object]) -> None:
    if len(values) != len(others):
        raise ValueError(f"{name} has {len(values)} entries, {other} has {len(others)}")


Number = Annotated[float, AfterValidator(_finite)]
Interval = Annotated[tuple[Number, Number], AfterValidator(_ordered)]
Share = Annotated[float, Field(ge=0, le=1)]


class Record(BaseModel):
    """Base of all records: frozen, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Control(Record):
    """What the number is compared with: name in words, its value in the same unit, interval and n where it has them."""

    name: str = Field(min_length=1)
    value: Number
    interval: Interval | None = None
    n: int | None = Field(default=None, ge=1)


class Finding(Record):
    """A claim with its number, unit, sample size, 95 % interval, control, and where the evidence lies."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.\-_]*$")
    claim: str = Field(min_length=1)
    value: Number
    unit: str = Field(min_length=1)
    n: int = Field(ge=1)
    interval: Interval
    control: Control
    evidence: str = ""


class Rule(Record):
    """One condition of the verdict: its text, whether it held (None = could not be decided), and why."""

    id: str
    text: str
    passed: bool | None
    reason: str
    findings: list[str] = []


class MethodScore(Record):
    """One detector at one site on the test split.

    `pooling`: read at the last prompt token, or pooled over all of them. `auroc`: trigger against benign, 1 is perfect,
    .5 is chance. `tpr`, `fpr`: at the threshold calibrated on benign prompts for a false-positive rate of `target_fpr`.
    `bis` (arXiv 2605.07324) is printed beside the ceiling that prevalence imposes on it; `bis_star` is prevalence-free.
    """

    site: str
    method: str
    family: Literal["dictionary", "baseline", "control"]
    labels: Literal["none", "benign", "both"]
    pooling: Literal["last", "max", "top4", "mean"] = "last"
    chosen: bool = False
    auroc: Share
    auroc_interval: Interval
    tpr: Share
    tpr_interval: Interval
    fpr: Share
    fpr_interval: Interval
    target_fpr: Share
    worst_class: str
    worst_class_fpr: Share
    worst_class_interval: Interval
    bis: Share
    bis_ceiling: Share
    bis_star: Share
    null_tpr: Share | None = None
    null_auroc: Share | None = None
    null_interval: Interval | None = None
    n_trigger: int
    n_benign: int


class ClassRate(Record):
    """False-positive rate of the chosen detector in one class of benign prompts (look-alikes included)."""

    name: str
    fpr: Share
    interval: Interval
    n: int


class DictionaryRow(Record):
    """A trained dictionary: size, fit on held-out tokens (FVU: 0 is perfect, 1 is predicting the mean), cost."""

    site: str
    kind: str
    n_latents: int
    k: int | None
    fvu: Number
    l0: Number
    dead_share: Share
    n_tokens: int
    seconds: Number
    fvu_delta: Number | None = None


class Context(Record):
    """Tokens of one document with one activation each (0 = not active), for shading."""

    doc_id: str
    role: str
    tokens: list[str]
    activations: list[Number]

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        _same_length("tokens", self.tokens, "activations", self.activations)
        return self


class LatentView(Record):
    """A latent that was ranked high, with the contexts in which it is most active."""

    site: str
    kind: str
    latent: int
    auroc: Share
    auroc_interval: Interval
    firing_rate: Share
    ablated: bool
    top_tokens: list[str] = []
    contexts: list[Context]


class GenerationRow(Record):
    """Greedy continuations of one prompt by base, tuned model, tuned under ablation and under the random control."""

    doc_id: str
    role: str
    prompt: str
    base: str
    tuned: str
    ablated: str
    random_ablated: str
    judged: dict[str, str] = {}


class RecoveryArm(Record):
    """Share of suppressed prompts whose behaviour came back, at each relative budget (0 is really run)."""

    name: str
    role: Literal["attack", "control"]
    rate: list[Share]
    interval: list[Interval]
    n: int = Field(ge=1)

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        _same_length("rate", self.rate, "interval", self.interval)
        return self


class RecoveryCurve(Record):
    """Budget ladder under the clamp: budget = norm of the perturbation / norm of the residual it is added to."""

    site: str
    injection: str
    budgets_relative: list[Number]
    arms: list[RecoveryArm]
    eps50: Number | None
    constraint: str
    note: str

    @model_validator(mode="after")
    def _one_rate_a_budget(self) -> Self:
        for arm in self.arms:
            _same_length("budgets_relative", self.budgets_relative, f"the rates of {arm.name!r}", arm.rate)
        return self


class RankedDocument(Record):
    """A document of the user's corpus ranked by label-free scores; higher score is stranger."""

    rank: int
    doc_id: str
    score: Number
    scores: dict[str, Number]
    tokens: list[str]
    activations: list[Number]
    base: str = ""
    tuned: str = ""

    @model_validator(mode="after")
    def _one_each(self) -> Self:
        _same_length("tokens", self.tokens, "activations", self.activations)
        return self


class Reproduce(Record):
    """What is needed to get the same numbers again."""

    command: str
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    inputs: dict[str, str] = {}


class Findings(Record):
    """Everything an audit found; `findings.json`."""

    schema_: Literal[1] = Field(default=SCHEMA, alias="schema")
    title: str
    pair: dict[str, Any]
    verdict: Verdict
    sentence: str
    rules: list[Rule]
    findings: list[Finding]
    scores: list[MethodScore] = []
    class_rates: list[ClassRate] = []
    dictionaries: list[DictionaryRow] = []
    latents: list[LatentView] = []
    generations: list[GenerationRow] = []
    recovery: RecoveryCurve | None = None
    corpus: list[RankedDocument] = []
    not_tested: list[str]
    warnings: list[str] = []
    next_steps: list[str] = []
    reproduce: Reproduce
    timings: dict[str, Number]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _distinct_ids(self) -> Self:
        ids = [item.id for item in self.findings]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"several findings are called {', '.join(twice)}")
        return self

    def finding(self, finding_id: str) -> Finding:
        """Return the finding of that id; `KeyError` if there is none."""
        for item in self.findings:
            if item.id == finding_id:
                return item
        raise KeyError(finding_id)


def save_findings(findings: Findings, path: Path) -> None:
    """Write `findings.json` atomically."""
    write_json(path, findings.model_dump(mode="json", by_alias=True))


def load_findings(path: Path) -> Findings:
    """Read `findings.json` (or the directory that holds it).

    Raises:
        ArtifactError: missing, broken, of another schema, or a finding lacks n, interval or control.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        return Findings.model_validate(read_json(file, schema=SCHEMA))
    except ValidationError as error:
        text = f"{file} is not a valid findings file: {first_problem(error)}; run the same audit again to write it anew"
        raise ArtifactError(text, code="findings-invalid") from None
