"""What edits at a site do to a planted behaviour: one row an edit, with counts, intervals, costs and controls.

Edits are ablations on trigger prompts (does the behaviour go away?) and steering on benign prompts (does it come?).
Shares are of prompts, 0 to 1. Nothing here holds tensors.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from saeaudit.findings import Interval, Number, Record, Share

EditKind = Literal["ablate", "steer"]
ControlName = Literal["random latents", "random direction", "mean difference"]

# An edit is cheap if ordinary text loses no more: nats a token of cross-entropy, and of KL(model || edited).
MAX_CE_RISE, MAX_KL = 0.01, 0.02
# Answers under an edit count while they can be judged about as often, and the base finds them not much less likely.
MIN_VALID, MAX_PERPLEXITY = 0.9, 2.0


class Measure(Record):
    """A number with its 95 % interval and the rows behind it."""

    value: Number
    interval: Interval
    n: int = Field(ge=1)


class Answers(Record):
    """What a judge said about the continuations of `n` prompts; the rest could not be judged."""

    n: int = Field(ge=1)
    n_bad: int
    n_good: int
    rate: Measure

    @property
    def valid(self) -> float:
        """Share that could be judged, 0 to 1."""
        return (self.n_bad + self.n_good) / self.n


class CausalRow(Record):
    """One edit of one model.

    Attributes:
        kind: "ablate" is judged on trigger prompts, "steer" on benign ones.
        side: the model that is edited.
        method: what was found, such as "diff-batchtopk" or "mean difference"; of a control, what it is compared with.
        control: what stands in the method's place; None for the method itself.
        draw: number of the control among its kind.
        count: latents or directions.
        strength: of steering, in 99 % quantiles of a latent's activation; of a control, times the method's norm.
        latents: the latents held.
        answers: on the prompts of the kind.
        success: 1 is a complete success. Of an ablation DS = 1 - V_edit(T) / V(T), of steering AS = V_edit(N).
        normalised: DS as a share of what separates model and twin, (V(T) - V_edit(T)) / (V(T) - V_twin(T)); AS as
            (V_edit(N) - V(N)) / (V(T) - V(N)). None where the denominator is below 0.1.
        excess: success minus the mean of the edit's random controls, paired by prompt; None for a control.
        mcnemar_p: two-sided exact test that the edit changes no prompt's outcome, as if prompts were independent.
        perplexity: of the answers to the base, over that of the unedited answers; 1 is equally likely.
        coherent: the answers can be judged at least .9 times as often as the unedited ones, and to the base they are at
            most twice as perplexing as these, or as the planted answers if those are more so; a success that is not
            coherent does not count.
        benign: of an ablation, the answers to benign prompts.
        kl, ce_rise: cost on ordinary text, nats a token; n counts documents.
        seconds: time to write the answers.
    """

    kind: EditKind
    side: Literal["base", "tuned"] = "tuned"
    method: str
    control: ControlName | None = None
    draw: int = 0
    count: int
    strength: Number = 1.0
    latents: list[int] = Field(default_factory=list)
    answers: Answers
    success: Measure | None
    normalised: Measure | None
    excess: Measure | None = None
    mcnemar_p: Share
    perplexity: Number | None
    coherent: bool
    benign: Answers | None = None
    kl: Measure
    ce_rise: Measure
    seconds: Number

    @property
    def cheap(self) -> bool:
        """Whether ordinary text hardly notices the edit."""
        return self.ce_rise.value <= MAX_CE_RISE and self.kl.value <= MAX_KL


class Isolation(Record):
    """How much more of the behaviour a method's best cheap ablation takes away than controls that cost as much.

    Attributes:
        method: what was found.
        count: latents or directions of its best ablation.
        success: its DS.
        control: mean DS of the controls at equal or greater cost; `n_controls` of them.
        value: the difference, paired by prompt. The best of several counts is taken on the prompts that judge it.
    """

    method: str
    count: int
    success: Number
    control: Number
    n_controls: int = Field(ge=1)
    value: Measure


class Recovered(Record):
    """Loss recovered on some text: (floor - spliced) / (floor - clean), 1 is as good as the model itself.

    Attributes:
        text: whose tokens are predicted.
        target: what is reconstructed: "difference" (the tuned model reads h0 + reconstruction; floor h0), or "base" or
            "tuned" (the side's residual; floor its mean).
        share: None where floor - clean is too small.
        clean, spliced, floor: cross-entropy, nats a token.
        n: documents.
    """

    text: str
    target: Literal["difference", "base", "tuned"]
    share: Measure | None
    clean: Number
    spliced: Number
    floor: Number
    n: int = Field(ge=1)


class CausalRows(Record):
    """What one task measures: the edits of one organism, layer and method (or of all directions).

    Attributes:
        organism, layer, method: whose.
        n_turned: selection prompts whose answer the trigger turns; latents are ranked by these.
        unedited: answers by model and prompts: "tuned T", "tuned N", "base T", "base N", "twin T".
        rows: edits; empty where the trigger turns no answer.
        isolation: by method; one without a cheap ablation is left out.
        recovered: of the dictionary.
        max_ce_rise, max_kl: cost up to which an ablation is cheap.
    """

    organism: str
    layer: str
    method: str
    n_turned: int
    unedited: dict[str, Answers]
    rows: list[CausalRow]
    isolation: list[Isolation] = Field(default_factory=list)
    recovered: list[Recovered] = Field(default_factory=list)
    max_ce_rise: Number = MAX_CE_RISE
    max_kl: Number = MAX_KL

    @model_validator(mode="after")
    def _controlled(self) -> Self:
        controls = {(r.kind, r.side, r.method, r.count, r.strength) for r in self.rows if r.control is not None}
        for row in self.rows:
            key = (row.kind, row.side, row.method, row.count, row.strength)
            if row.control is None and key not in controls:
                raise ValueError(f"{row.kind} {row.method} x {row.count} has no control")
        return self
