"""What a dictionary is before it has weights: kind, width, sparsity rule and its loss."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["sae", "diff", "crosscoder"]
Rule = Literal["batchtopk", "topk", "matryoshka", "relu", "gated", "jumprelu"]
Layout = Literal["free", "shared", "base", "tuned"]
Score = Literal["sum", "concat", "mixed", "none"]
Tied = Literal["rows", "columns", "free"]

COUNTING: tuple[Rule, ...] = ("batchtopk", "topk", "matryoshka")
AUX_ALPHA = 1 / 32
# Lambda by rule and, for JumpReLU, by what its penalty counts. Chosen on planted sparse data (docs/dictionaries.md).
LAMBDA = {"relu": 5.0, "gated": 5.0, "step": 1.0, "quadratic": 0.1, "tanh": 1.0}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Penalty(_Settings):
    """The part of the loss that asks for few active latents.

    Attributes:
        weight: lambda of |e|^2 + lambda S in scaled units (mean of |x|^2 = width); the whole loss is divided by the
            width, so that its first part is the FVU. A quadratic S is compared with the FVU itself.
        warmup: share of the run in which the weight rises linearly from 0.
    """

    weight: float = Field(gt=0)
    warmup: float = Field(default=0.05, ge=0, le=1)


class JumpReluConfig(_Settings):
    """Thresholds of a JumpReLU dictionary and what its penalty counts (arXiv 2407.14435; Anthropic, January 2025).

    Attributes:
        penalty: S is the number of active latents ("step"), its squared relative distance to k ("quadratic"), or the
            sum of tanh(tanh_scale * f * decoder norm) ("tanh").
        threshold: theta at the start, scaled units.
        bandwidth: width of the kernel that estimates the gradient to theta, scaled units.
        straight_through: the kernel's gradient also reaches the pre-activation.
        tanh_scale: c of the tanh penalty.
        revive: weight, as lambda, of the sum of relu(theta - z) * decoder norm, which pulls silent latents up.
    """

    penalty: Literal["step", "quadratic", "tanh"] = "step"
    threshold: float = Field(default=1.0, gt=0)
    bandwidth: float = Field(default=1.0, gt=0)
    straight_through: bool = True
    tanh_scale: float = Field(default=4.0, gt=0)
    revive: float = Field(default=0.0, ge=0)


class Anneal(_Settings):
    """`k` falls linearly from `start` to its final value over the first `steps` training steps."""

    start: int = Field(ge=1)
    steps: int = Field(ge=1)


class Range(_Settings):
    """Consecutive latents of a crosscoder with a decoder layout and a sparsity of their own.

    Attributes:
        n_latents: how many.
        layout: "free" has a decoder row a side; "shared" one row for both; "base" and "tuned" read and write one side.
        k: active latents a row, for BatchTopK.
        penalty_factor: of lambda, for ReLU (Anthropic, February 2025: 0.1 to 0.2 for shared latents).
        explains_difference: its latents alone are held to explain tuned - base (see `CrosscoderConfig.difference`).
    """

    n_latents: int = Field(ge=1)
    layout: Layout = "free"
    k: int | None = Field(default=None, ge=1)
    penalty_factor: float = Field(default=1.0, ge=0)
    explains_difference: bool = False


class CrosscoderConfig(_Settings):
    """What only crosscoders have.

    Attributes:
        score: factor of an activation when latents compete: the sum of the decoder norms of the sides, the norm of
            both rows as one vector, that plus a tenth of the sum ("mixed"), or none.
        ranges: parts of the dictionary in order; none means one free range.
        difference: gamma of the squared error of x1 - x0 as explained by the ranges that explain the difference, added
            to the errors of both sides (delta crosscoder, after arXiv 2603.04426; the definitions are ours).
        bridge: lambda in [-1, 0] of `|e1|^2 + |e0|^2 + 2 lambda <e1, e0>`; 0 scores both sides, -1 the difference only.
    """

    score: Score = "sum"
    ranges: tuple[Range, ...] = ()
    difference: float = Field(default=0.0, ge=0)
    bridge: float = Field(default=0.0, ge=-1, le=0)


class PublishedConfig(_Settings):
    """Choices of published recipes that are not ours; for comparison and reproduction.

    Attributes:
        recon: first part of the loss: the FVU, the squared error of a row ("mse"), or its root ("l2norm").
        pre_bias: subtract the decoder bias before encoding.
        tied: one matrix as encoder and decoder, normalised by latent ("rows"), by input coordinate ("columns"), or not.
        plain_penalty: the L1 term does not weigh activations by decoder norms.
        ghost: term for dead ReLU latents: that of 2024, or that of the code of arXiv 2605.07324.
        ghost_weight: c of the latter.
    """

    recon: Literal["fvu", "mse", "l2norm"] = "fvu"
    pre_bias: bool = False
    tied: Tied | None = None
    plain_penalty: bool = False
    ghost: Literal["2024", "diffsae"] | None = None
    ghost_weight: float = Field(default=0.1, gt=0)


class DictionaryConfig(_Settings):
    """Settings of `build`; frozen, unknown fields are refused.

    Attributes:
        kind: "sae" reads one activation, "diff" the difference tuned - base, "crosscoder" both sides.
        n_latents: number of dictionary elements.
        k: mean number of active latents a row, of the rules that count and of the quadratic penalty.
        sparsity: the rule that chooses the active latents (`docs/dictionaries.md`).
        aux_alpha: weight of the loss that revives dead latents; 0 switches it off (arXiv 2406.04093, A.2). Only the
            rules that count have it.
        aux_k: dead latents used a row by that loss; None means half of the input width.
        penalty: of the rules that do not count; also an L1 term beside TopK.
        jumprelu: of that rule.
        prefixes: ascending widths of a Matryoshka dictionary, the last one `n_latents`; by default n/16, n/8, n/4, n/2
            and n.
        anneal: a k that falls; None means that it is constant.
        crosscoder: None means the defaults.
        published: None means our choices.
    """

    kind: Kind
    n_latents: int = Field(ge=1)
    k: int | None = Field(default=None, ge=1)
    sparsity: Rule = "batchtopk"
    aux_alpha: float = Field(default=AUX_ALPHA, ge=0)
    aux_k: int | None = Field(default=None, ge=1)
    penalty: Penalty | None = None
    jumprelu: JumpReluConfig | None = None
    prefixes: tuple[int, ...] | None = None
    anneal: Anneal | None = None
    crosscoder: CrosscoderConfig | None = None
    published: PublishedConfig | None = None

    @property
    def counts(self) -> bool:
        """Whether the rule fixes the number of active latents."""
        return self.sparsity in COUNTING

    @model_validator(mode="before")
    @classmethod
    def _say_defaults(cls, given: Any) -> Any:
        """Fill in the defaults of the rule, so that a saved config says everything that decided the training."""
        if not isinstance(given, dict):
            return given
        rule, n_latents, filled = given.get("sparsity"), given.get("n_latents"), {}
        if rule == "matryoshka" and isinstance(n_latents, int):
            filled["prefixes"] = default_prefixes(n_latents)
        if rule == "jumprelu":
            filled["jumprelu"] = JumpReluConfig.model_validate(given.get("jumprelu") or {})
            rule = filled["jumprelu"].penalty
        if rule in LAMBDA:
            filled["penalty"] = Penalty(weight=LAMBDA[rule])
        return filled | {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _rule_fits(self) -> "DictionaryConfig":
        named, quadratic = self.sparsity, self.jumprelu is not None and self.jumprelu.penalty == "quadratic"
        _refuse(
            (self.k is None and (self.counts or quadratic), f"{named} needs k, the number of active latents a row"),
            (self.k is not None and self.k > self.n_latents, f"k = {self.k} exceeds n_latents = {self.n_latents}"),
            (
                self.k is not None and not (self.counts or quadratic),
                f"k = {self.k} means nothing to {named}, whose penalty decides how many latents are active; leave k "
                "out, or use jumprelu with the quadratic penalty, which aims at k",
            ),
            (
                not self.counts and (self.aux_k is not None or self.aux_alpha not in (0, AUX_ALPHA)),
                f"AuxK belongs to {', '.join(COUNTING)}, not to {named}; leave aux_alpha and aux_k out",
            ),
            (self.penalty is not None and named in ("batchtopk", "matryoshka"), f"{named} counts and has no penalty"),
            (self.jumprelu is not None and named != "jumprelu", f"jumprelu settings mean nothing to {named}"),
            (self.prefixes is not None and named != "matryoshka", f"prefixes belong to matryoshka, not to {named}"),
            (
                self.prefixes is not None and [*self.prefixes] != sorted({0, *self.prefixes, self.n_latents})[1:],
                f"prefixes must be positive, ascend and end at n_latents = {self.n_latents}; found {self.prefixes}",
            ),
            (self.anneal is not None and not self.counts, f"k can fall where it counts, not in {named}"),
            (
                self.anneal is not None and self.k is not None and not self.k <= self.anneal.start <= self.n_latents,
                f"k can fall to {self.k} from at most n_latents = {self.n_latents}; anneal.start says otherwise",
            ),
        )
        return self

    @model_validator(mode="after")
    def _crosscoder_fits(self) -> "DictionaryConfig":
        given = self.crosscoder or CrosscoderConfig()
        ranges, named = given.ranges, self.sparsity
        explains = any(part.explains_difference for part in ranges)
        _refuse(
            (self.crosscoder is not None and self.kind != "crosscoder", f"a {self.kind} dictionary has no sides"),
            (
                self.kind == "crosscoder" and named == "gated",
                "gated needs decoder rows of norm 1, and the free norms of a crosscoder are its result; use jumprelu",
            ),
            (given.score != "sum" and not self.counts, f"latents of {named} do not compete; leave score out"),
            (bool(ranges) and named not in ("batchtopk", "relu"), f"ranges need batchtopk or relu, not {named}"),
            (bool(ranges) and self.anneal is not None, "k cannot fall where ranges have a k each"),
            (
                bool(ranges) and sum(part.n_latents for part in ranges) != self.n_latents,
                f"the ranges must hold n_latents = {self.n_latents} together",
            ),
            (
                bool(ranges) and self.counts and [part.k or 0 for part in ranges] != _shares_of(self.k, ranges),
                f"every range needs a k of at most its size, and they must sum to k = {self.k}",
            ),
            (not self.counts and any(part.k for part in ranges), f"k means nothing to a range of {named}"),
            (explains != (given.difference > 0), "difference > 0 and a range that explains it belong together"),
            (given.difference > 0 and given.bridge < 0, "difference and bridge are two objectives; choose one"),
            (
                named == "matryoshka" and (given.difference > 0 or given.bridge < 0),
                "matryoshka scores every prefix by the errors of both sides; leave difference and bridge out",
            ),
        )
        return self

    @model_validator(mode="after")
    def _published_fits(self) -> "DictionaryConfig":
        given, crosscoder = self.published or PublishedConfig(), self.crosscoder or CrosscoderConfig()
        plain = self.sparsity in ("batchtopk", "topk") and self.aux_alpha == 0 and self.penalty is None
        _refuse(
            (
                given.recon != "fvu" and not (plain and crosscoder.bridge == 0 and crosscoder.difference == 0),
                f"with {given.recon} other terms lose their unit; use it with batchtopk or topk and aux_alpha = 0 only",
            ),
            (given.ghost is not None and self.sparsity != "relu", "ghost terms belong to relu"),
            (given.ghost == "diffsae" and given.tied is None, "the ghost term of diffsae needs tied matrices"),
            (given.tied is not None and bool(crosscoder.ranges), "matrices of a crosscoder with ranges cannot be tied"),
            (
                given.tied in ("rows", "columns") and self.kind == "crosscoder",
                "the norms of a crosscoder are its result; it can be tied 'free'",
            ),
        )
        return self


def default_prefixes(n_latents: int) -> tuple[int, ...]:
    """Return n/16, n/8, n/4, n/2 and n, without those that are 0.

    >>> default_prefixes(64), default_prefixes(6)
    ((4, 8, 16, 32, 64), (1, 3, 6))
    """
    return tuple(sorted({n_latents // part for part in (16, 8, 4, 2, 1)} - {0}))


def _shares_of(k: int | None, ranges: tuple[Range, ...]) -> list[int]:
    """Return the ranges' k if they are possible, else nothing."""
    shares = [part.k or 0 for part in ranges]
    possible = all(1 <= share <= part.n_latents for share, part in zip(shares, ranges, strict=True))
    return shares if possible and sum(shares) == k else []


def _refuse(*problems: tuple[bool, str]) -> None:
    found = [text for broken, text in problems if broken]
    if found:
        raise ValueError("; ".join(found))
