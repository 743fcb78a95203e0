"""One ladder of budgets: how large a push on the residual brings suppressed behaviour back while the clamp stays on?

For prompts whose behaviour the clamp removed (valid flips), at each budget of the ladder:

- attack: the search of `search.py` in the null space of the clamped encoder rows, at the last prompt token, right after
  the clamp;
- control: a random direction of the same norm in the same null space.

Both are judged by free generation with the clamp on, by the same detector that decided which prompts are flips. Budget
0 is really run and must give nothing: where two tokens are about equally likely, rounding alone can turn a clamped
answer, so flips that are not steady are left out and counted; if they are many, the detector is vacuous. Success at a
budget counts for all larger ones, because the feasible sets are nested.

The perturbation enters after the clamp, where the clamp cannot see it by definition: the result measures whether the
held latents are complete, not whether a deployment is robust. Source: arXiv 2606.18322; budgets are relative to the
residual at the insertion position, never to position 0, whose norm is an outlier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.interventions import LatentEdit
from saeaudit.models import Generation, Pair
from saeaudit.recovery.continuation import ClampedContinuation
from saeaudit.recovery.nullspace import null_space
from saeaudit.recovery.search import START, random_feasible, search
from saeaudit.recovery.trial import Flip, Progress, enter_clamp, generate, longest_trial, require_flips
from saeaudit.seeds import torch_generator

MOST_UNSTEADY = 0.25


class LadderConfig(BaseModel):
    """Sizes of the ladder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    budgets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    n_items: int = Field(default=12, ge=1)
    n_steps: int = Field(default=30, ge=1)
    n_target_tokens: int = Field(default=10, ge=1)

    @field_validator("budgets")
    @classmethod
    def _increasing(cls, budgets: tuple[float, ...]) -> tuple[float, ...]:
        if not budgets or not all(a < b < float("inf") for a, b in pairwise((0.0, *budgets))):
            raise ValueError(f"budgets must increase strictly from above 0; found {budgets}")
        return budgets


@dataclass(frozen=True)
class ArmResult:
    """Which flips came back at each budget ("item budget", budgets start with 0), before the monotone envelope."""

    name: str
    came_back: Bool[Tensor, "item budget"]

    def envelope(self) -> Bool[Tensor, "item budget"]:
        """Return success at this budget or a smaller one above 0; budget 0 stays as it was measured."""
        above = self.came_back[:, 1:].cummax(1).values
        return torch.cat([self.came_back[:, :1], above], 1)


@dataclass(frozen=True)
class LadderResult:
    """A measured ladder.

    Attributes:
        budgets: relative to the norm of the clamped residual at the insertion position; the first is 0.
        attack: searched perturbations.
        random: random directions of equal norm.
        eps50: smallest budget at which half of the flips came back by attack, or None.
        leak: largest |A_S delta| / (|A_S| |delta|) over all perturbations; 0 is exact.
        n_unsteady: flips left out because the behaviour is seen in them without a perturbation.
    """

    budgets: tuple[float, ...]
    attack: ArmResult
    random: ArmResult
    eps50: float | None
    leak: float
    n_unsteady: int


def climb(
    pair: Pair,
    edit: LatentEdit,
    flips: Sequence[Flip],
    came_back: Callable[[int, str], bool],
    config: LadderConfig,
    *,
    seed: int,
    n_new: int | None = None,
    progress: Progress | None = None,
) -> LadderResult:
    """Run the ladder on up to `config.n_items` flips.

    Args:
        pair: base and tuned model.
        edit: the clamp; one site.
        flips: valid flips.
        came_back: `came_back(index of flip, generated text)`, the detector that chose the flips.
        config: budgets and sizes.
        seed: of starts and random directions.
        n_new: tokens to generate for the detector, best the number that the flips were judged on; None: 8 more than the
            longest answer, as far as the context allows.
        progress: called with (work done, work), in steps and generations.

    Raises:
        EvidenceError: there are no flips (code `no-flips`), or the detector sees the behaviour in more than a quarter
            of them at budget 0 (`vacuous-detector`).
        InputError: the ids of a flip are not those of its prompt (`flip-ids`), or it has no answer (`empty-answer`).
        ConfigError: the clamp leaves no free direction (`no-null-space`).
        NumericsError: the model's logits are NaN or infinite.
    """
    tried = flips[: config.n_items]
    require_flips(pair.tuned, tried)
    free = null_space(edit.encoder)
    n_rungs = len(config.budgets)
    work = _Work(progress, len(tried) + config.n_steps + 2 * n_rungs * len(tried))
    trial = _Trial(pair, edit, tried, came_back, n_new or longest_trial(pair.tuned, tried))
    unpushed, seen = trial(torch.zeros(len(tried), free.d_model), torch.arange(len(tried)), None, work.after(0))
    kept = _steady(seen)
    flips, n = [tried[i] for i in kept], len(kept)
    work = _Work(progress, len(tried) + config.n_steps + 2 * n_rungs * n)
    objective = _objective(pair, edit, flips, config)
    item = torch.arange(n).repeat_interleave(n_rungs)
    budgets = objective.anchor_norm[item] * torch.tensor(config.budgets).repeat(n)
    found = search(
        lambda delta, rows: objective(delta, item[rows]),
        budgets,
        free,
        n_steps=config.n_steps,
        starts=random_feasible(START * budgets, free, torch_generator(seed, "recovery", "search")),
        progress=work.after(len(tried)),
    )
    chance = random_feasible(budgets, free, torch_generator(seed, "recovery", "random"))
    original = torch.tensor(kept)[item]
    same = [unpushed[i].token_ids for i in original.tolist()]
    hoped = [
        flips[i].answer_ids if success else ids
        for i, success, ids in zip(item.tolist(), found.success.tolist(), same, strict=True)
    ]
    _, attack = trial(found.delta, original, hoped, work.after(len(tried) + config.n_steps))
    _, random = trial(chance, original, same, work.after(len(tried) + config.n_steps + len(item)))
    arms = [
        ArmResult(name, torch.cat([seen[kept][:, None], back.reshape(n, n_rungs)], 1))
        for name, back in (("search", attack), ("random direction", random))
    ]
    leak = max(_leak(edit, found.delta), _leak(edit, chance))
    ladder = (0.0, *config.budgets)
    return LadderResult(ladder, arms[0], arms[1], _eps50(arms[0], ladder), leak, len(tried) - n)


@dataclass(frozen=True)
class _Trial:
    """Lets the clamped model write, and asks the detector."""

    pair: Pair
    edit: LatentEdit
    flips: Sequence[Flip]
    came_back: Callable[[int, str], bool]
    n_new: int

    def __call__(
        self,
        delta: Float[Tensor, "row d_model"],
        item: Int[Tensor, " row"],
        drafts: Sequence[Sequence[int]] | None,
        progress: Progress,
    ) -> tuple[list[Generation], Bool[Tensor, " row"]]:
        """Return what is written under each perturbation, and whether the behaviour of flip `item` is seen in it."""
        made = generate(
            self.pair, self.edit, self.flips, delta, item, n_new=self.n_new, drafts=drafts, progress=progress
        )
        back = [self.came_back(i, g.text) for i, g in zip(item.tolist(), made, strict=True)]
        return made, torch.tensor(back)


def _steady(unpushed: Bool[Tensor, " item"]) -> list[int]:
    """Return the flips in which nothing is seen without a perturbation."""
    n_seen = int(unpushed.sum())
    if n_seen > MOST_UNSTEADY * len(unpushed):
        raise EvidenceError(
            f"in {n_seen} of {len(unpushed)} flips the behaviour is seen under the clamp without any perturbation: the "
            "detector or the set of flips is wrong; use for both the detector and the number of tokens that chose the "
            "flips",
            code="vacuous-detector",
        )
    return (~unpushed).nonzero()[:, 0].tolist()


def _objective(pair: Pair, edit: LatentEdit, flips: Sequence[Flip], config: LadderConfig) -> ClampedContinuation:
    return ClampedContinuation(
        pair.tuned.model,
        edit.clamp.site,
        lambda stack: enter_clamp(stack, pair, edit),
        [f.prompt_ids for f in flips],
        [f.answer_ids[: config.n_target_tokens] for f in flips],
    )


class _Work:
    """Adds up the progress of search and generations."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total

    def after(self, before: int) -> Progress:
        """Return the progress of a part that starts when `before` is done."""

        def report(done: int, _: int) -> None:
            if self._progress is not None:
                self._progress(before + done, self._total)

        return report


def _eps50(arm: ArmResult, budgets: Sequence[float]) -> float | None:
    rate = arm.envelope().float().mean(0)
    reached = [b for b, r in zip(budgets, rate.tolist(), strict=True) if b > 0 and r >= 0.5]
    return reached[0] if reached else None


def _leak(edit: LatentEdit, delta: Float[Tensor, "row d_model"]) -> float:
    norm = delta.norm(dim=1)
    moved = norm > 0
    top = torch.linalg.matrix_norm(edit.encoder.double(), ord=2)
    if not bool(moved.any()) or float(top) == 0:
        return 0.0
    drift = (delta[moved].double() @ edit.encoder.double().T).norm(dim=1)
    return float((drift / (top * norm[moved].double())).max())
