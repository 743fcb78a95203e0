"""What an isolation study compares: organisms, layers, methods, and how much work is spent on each."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from saeaudit.audit.config import AuditConfig, BehaviourSizes, DetectionSizes, DictionarySizes
from saeaudit.dictionaries import COUNTING, Kind, Rule
from saeaudit.organisms.names import OrganismName, Variant
from saeaudit.organisms.small_model import SmallModelConfig, small_recipe
from saeaudit.studies.isolation.paper.config import PaperStudy

Base = Literal["small", "embedded"]
DIRECTIONS = "directions"
KNOWN = tuple(f"{kind}-{rule}" for kind in get_args(Kind) for rule in get_args(Rule))
TARGET_FPR = 0.01


class Member(NamedTuple):
    """One tuned model of the study."""

    family: OrganismName
    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Such as "phrase-poisoned-s0"."""
        return f"{self.family}-{self.variant}-s{self.seed}"

    @property
    def twin(self) -> str:
        """The clean model that was planted on the same prompts; of a clean one, the poisoned model."""
        other: Variant = "poisoned" if self.variant == "clean" else "clean"
        return self._replace(variant=other).name


class DictionaryPlan(BaseModel, frozen=True, extra="forbid"):
    """A dictionary that is compared."""

    kind: Kind
    sparsity: Rule

    @property
    def name(self) -> str:
        """The method's name, such as "diff-batchtopk"."""
        return f"{self.kind}-{self.sparsity}"

    @property
    def has_exact_k(self) -> bool:
        """Whether the rule fixes the mean number of active latents."""
        return self.sparsity in COUNTING


class Audited(BaseModel, frozen=True, extra="forbid"):
    """How many further fine-tunes of the small model are audited whole, by what is planted in them."""

    clean: NonNegativeInt = 0
    unrelated: NonNegativeInt = 0
    conditional: NonNegativeInt = 0
    poisoned: NonNegativeInt = 0


class IsolationConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of `saeaudit study isolation`.

    Attributes:
        base: "small", a model trained from scratch in the run, or "embedded", with the shipped adapters.
        families: triggers.
        variants: what is planted: the backdoor, its clean twin, and further controls.
        model_seeds: a fine-tune of each family and variant for every one of them.
        layers: blocks whose output is read.
        n_prompts: trigger prompts of a family; three times as many benign ones are matched to them.
        dictionaries: kinds and rules, such as "diff-batchtopk".
        small: the small model and its training.
        plant: settings of `saeaudit plant` that differ from the small model's recipe.
        n_verify: held-out prompts a class on which that is verified.
        alarms: further fine-tunes of the small model that are audited whole.
        paper: what is run of the paper's own experiment, on the shipped SQL pair; None means nothing.
        causal: those of the dictionaries whose latents are ablated and steered in models with a planted condition;
            "directions" does the same with what needs no dictionary.
        n_sparsity_trials: trainings of a dictionary at most, to reach the wanted number of active latents.
        is_evidence: whether the numbers are meant as evidence; False marks them on every page.
        seed: of prompts, splits, dictionaries and intervals.
    """

    base: Base = "small"
    families: tuple[OrganismName, ...] = ("phrase",)
    variants: tuple[Variant, ...] = Field(default=("poisoned", "clean"), min_length=1)
    model_seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    layers: tuple[int, ...] = Field(default=(1,), min_length=1)
    n_prompts: PositiveInt = 240
    dictionaries: tuple[str, ...] = ("diff-batchtopk", "crosscoder-batchtopk")
    causal: tuple[str, ...] = ()
    n_sparsity_trials: PositiveInt = 8
    is_evidence: bool = True
    seed: int = Field(default=0, ge=0)
    dictionary: DictionarySizes = DictionarySizes()
    detection: DetectionSizes = DetectionSizes()
    behaviour: BehaviourSizes = BehaviourSizes()
    small: SmallModelConfig = SmallModelConfig()
    plant: dict[str, Any] = Field(default_factory=dict)
    n_verify: PositiveInt = 100
    alarms: Audited = Audited()
    paper: PaperStudy | None = None

    @field_validator("dictionaries")
    @classmethod
    def _dictionaries(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, KNOWN)

    @field_validator("causal")
    @classmethod
    def _causal(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return _known(names, (*KNOWN, DIRECTIONS))

    @field_validator("plant")
    @classmethod
    def _plant(cls, changes: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted({"organism", "variant", "seed"} & changes.keys()):
            raise ValueError(f"the study sets {', '.join(taken)} itself; change families, variants or model_seeds")
        small_recipe("token", **changes)
        return changes

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.detection.target_fpr != TARGET_FPR:
            raise ValueError(f"cells are judged at {TARGET_FPR:g} false positives, found {self.detection.target_fpr:g}")
        if any(self.alarms.model_dump().values()) and (self.base != "small" or not self.families):
            raise ValueError("whole audits (alarms) are made on the small model's families; they need base=small")
        return self

    @property
    def plans(self) -> list[DictionaryPlan]:
        """The dictionaries that are compared."""
        found = []
        for name in self.dictionaries:
            kind, _, sparsity = name.partition("-")
            found.append(DictionaryPlan.model_validate({"kind": kind, "sparsity": sparsity}))
        return found

    def members(self, family: OrganismName, seed: int) -> list[Member]:
        """Return the tuned models of one family and seed; they share prompts, base pass and splits."""
        return [Member(family, variant, seed) for variant in self.variants]

    def audited(self) -> list[Member]:
        """Return the further models that are audited whole; their seeds are those of no other model."""
        first = max(self.model_seeds) + 1
        return [
            Member(self.families[i % len(self.families)], variant, first + i)
            for variant in get_args(Variant)
            for i in range(getattr(self.alarms, variant))
        ]

    def audit(self, *, base: str, judge: OrganismName) -> AuditConfig:
        """Return the settings of the audit whose parts the study uses."""
        return AuditConfig(
            base=base,
            tuned=base,
            judge=judge,
            layers=self.layers,
            seed=self.seed,
            dictionary=self.dictionary,
            detection=self.detection,
            behaviour=self.behaviour,
        )


def _known(names: tuple[str, ...], known: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in known:
            raise ValueError(f"there is no {name!r}; there are {', '.join(known)}")
    return tuple(dict.fromkeys(names))
