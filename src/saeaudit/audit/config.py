"""Settings of an audit: what is compared, on which prompts, and how much work is spent."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

from saeaudit.organisms.names import OrganismName
from saeaudit.recovery import LadderConfig

JudgeName = Literal["none"] | OrganismName
Precision = Literal["auto", "float32", "mixed"]

# Fractions of the depth: 9, 13, 17 and 21 of 30 blocks. arXiv 2605.07324 reads deeper (to .81); there a switched
# answer is often decided already and cannot be held any more (docs/verdict.md).
LAYER_FRACTIONS = (0.3125, 0.4375, 0.5625, 0.6875)


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DictionarySizes(_Section):
    """Width, sparsity and training of the dictionaries."""

    expansion: int = Field(default=2, ge=1, description="latents per residual dimension")
    k: int = Field(default=32, ge=1, description="mean active latents a token")
    n_samples: int = Field(default=400_000, ge=1, description="token samples a dictionary is trained on")
    batch_size: int = Field(default=2048, ge=1)
    lr: float = Field(default=3e-3, gt=0, description="for runs of a few hundred steps")
    crosscoder: bool = Field(default=True, description="also train a crosscoder at the chosen layer")
    corpus_documents: int = Field(default=240, ge=0, description="documents of the corpus, or of neutral text, used")


class DetectionSizes(_Section):
    """Detectors and their nulls."""

    target_fpr: float = Field(default=0.01, gt=0, lt=0.5)
    latent_counts: tuple[PositiveInt, ...] = Field(default=(1, 4, 16), min_length=1)
    n_random_bases: int = Field(default=40, ge=20)
    n_shuffles: int = Field(default=1000, ge=20)


class BehaviourSizes(_Section):
    """How many continuations are generated, and which clamps are tried."""

    n_prompts: int = Field(default=60, ge=4, description="test prompts of each kind, trigger and benign")
    n_choice_prompts: int = Field(
        default=48,
        ge=2,
        description="trigger prompts of the selection split for the choice of the hold; half as many benign",
    )
    n_new_tokens: int = Field(default=40, ge=1)
    clamp_counts: tuple[PositiveInt, ...] = Field(default=(16, 64, 256, 512), min_length=1)
    n_random_clamps: int = Field(default=2, ge=1)
    cost_documents: int = Field(default=16, ge=4)
    batch_size: int = Field(default=64, ge=1)


class AuditConfig(_Section):
    """One audit of one tuned model.

    Attributes:
        base: hub id, directory, GGUF file or "embedded".
        tuned: the same, or a PEFT adapter directory on the base.
        trigger_examples: JSON lines of prompts that may trigger the behaviour; None for a ranking without a verdict.
        benign_examples: JSON lines of ordinary prompts; look-alikes of the trigger belong here, with a `class`.
        corpus: text for the dictionaries, and for the ranking when there are no examples.
        layers: blocks whose output is read; None means four places in the middle.
        judge: who says whether a continuation shows the behaviour; "none" compares outputs by a classifier.
        precision: "auto" is mixed bf16 and fp32 where the CPU or GPU has fast bf16.
    """

    base: str = "embedded"
    tuned: str
    trigger_examples: Path | None = None
    benign_examples: Path | None = None
    corpus: Path | None = None
    layers: tuple[int, ...] | None = None
    judge: JudgeName = "none"
    precision: Precision = "auto"
    max_length: int = Field(default=512, ge=8, description="longest document of a corpus in tokens; prompts must fit")
    seed: int = Field(default=0, ge=0)
    stress: bool = True
    keep_activations: bool = False
    allow_base_mismatch: bool = False
    dictionary: DictionarySizes = DictionarySizes()
    detection: DetectionSizes = DetectionSizes()
    behaviour: BehaviourSizes = BehaviourSizes()
    ladder: LadderConfig = LadderConfig()

    @field_validator("layers")
    @classmethod
    def _layers(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is None:
            return None
        if not layers or len(set(layers)) != len(layers) or min(layers) < 0:
            raise ValueError(f"layers must be distinct block numbers from 0 on; found {layers}")
        return tuple(sorted(layers))

    def sites(self, n_layers: int) -> list[str]:
        """Return the site names for a model with that many blocks."""
        chosen = self.layers or sorted({min(n_layers - 1, round(f * n_layers)) for f in LAYER_FRACTIONS})
        return [f"layers.{n}" for n in chosen]
