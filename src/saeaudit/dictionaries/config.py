"""What a dictionary is before it has weights: kind, width, sparsity."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["sae", "diff", "crosscoder"]


class DictionaryConfig(BaseModel):
    """Settings of `build`; frozen, unknown fields are refused.

    Attributes:
        kind: "sae" reads one activation, "diff" the difference tuned - base, "crosscoder" both sides.
        n_latents: number of dictionary elements.
        k: mean number of active latents a row.
        sparsity: the rule that chooses the active latents (BatchTopK: arXiv 2412.06410).
        aux_alpha: weight of the loss that revives dead latents; 0 switches it off (arXiv 2406.04093, A.2).
        aux_k: dead latents used a row by that loss; None means half of the input width.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    n_latents: int = Field(ge=1)
    k: int = Field(ge=1)
    sparsity: Literal["batchtopk"] = "batchtopk"
    aux_alpha: float = Field(default=1 / 32, ge=0)
    aux_k: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _k_fits(self) -> "DictionaryConfig":
        if self.k > self.n_latents:
            raise ValueError(f"k = {self.k} active latents were asked of n_latents = {self.n_latents}; lower k")
        return self
