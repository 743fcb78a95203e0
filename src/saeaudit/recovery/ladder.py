"""One ladder of budgets: how large a push on the residual brings the suppressed behaviour back while the clamp stays on?

For prompts whose behaviour the clamp removed (valid flips), at each budget of the ladder:

- attack: the search of `search.py` in the null space of the clamped encoder rows, at the last prompt token, right after
  the clamp;
- control: a random direction of the same norm in the same null space.

Both are judged by free generation with the clamp on, by the same detector that decided which prompts are flips. Budget 0
is really run: it must give 0 %, else the detector is vacuous. Success at a budget counts for all larger ones, because the
feasible sets are nested.

The perturbation enters after the clamp, where the clamp cannot see it by definition: the result measures whether the held
latents are complete, not whether a deployment is robust. Source: arXiv 2606.18322; budgets as section 5 of our method
notes (relative to the residual at the insertion position, never to position 0).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from saeaudit.errors import EvidenceError
from saeaudit.interventions import AddAt, LatentEdit, PairedBase, PairedClamp, compose
from saeaudit.models import LoadedModel, Pair, greedy
from saeaudit.recovery.continuation import ClampedContinuation
from saeaudit.recovery.nullspace import null_space
from saeaudit.recovery.search import random_feasible, search
from saeaudit.seeds import torch_generator

Progress = Callable[[int, int], None]


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
        if not budgets or budgets[0] <= 0 or any(b <= a for a, b in zip(budgets, budgets[1:], strict=False)):
            raise ValueError(f"budgets must increase strictly from above 0; found {budgets}")
        return budgets


@dataclass(frozen=True)
class Flip:
    """A prompt whose behaviour the clamp removed, with the answer (token ids) that it gave without the clamp."""

    prompt: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


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
    """

    budgets: tuple[float, ...]
    attack: ArmResult
    random: ArmResult
    eps50: float | None
    leak: float


def climb(
    pair: Pair,
    edit: LatentEdit,
    flips: Sequence[Flip],
    came_back: Callable[[int, str], bool],
    config: LadderConfig,
    *,
    seed: int,
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
        progress: called with (work done, work), in steps and generations.

    Raises:
        EvidenceError: there are no flips (code `no-flips`), or the detector sees the behaviour at budget 0.
        ConfigError: the clamp leaves no free direction.
    """
    if not flips:
        raise EvidenceError(
            "the clamp removed the behaviour on no prompt, so there is nothing to bring back; clamp more latents",
            code="no-flips",
        )
    flips = flips[: config.n_items]
    model, site = pair.tuned.model, edit.clamp.site
    objective = ClampedContinuation(
        model,
        site,
        lambda stack: _enter(stack, pair, edit),
        [f.prompt_ids for f in flips],
        [f.answer_ids[: config.n_target_tokens] for f in flips],
    )
    free = null_space(edit.encoder)
    n, ladder = len(flips), (0.0, *config.budgets)
    item = torch.arange(n).repeat_interleave(len(ladder))
    budgets = objective.anchor_norm[item] * torch.tensor(ladder).repeat(n)
    total = config.n_steps + 2 * len(item)

    def searching(step: int, _: int) -> None:
        if progress is not None:
            progress(step, total)

    found = search(
        lambda delta: objective(delta, item),
        budgets,
        free,
        n_steps=config.n_steps,
        generator=torch_generator(seed, "recovery", "search"),
        progress=searching,
    )
    chance = random_feasible(budgets, free, torch_generator(seed, "recovery", "random"))
    arms = []
    for k, (name, delta) in enumerate((("search", found.delta), ("random direction", chance))):

        def generating(done: int, _: int, k: int = k) -> None:
            if progress is not None:
                progress(config.n_steps + k * len(item) + done, total)

        texts = _generate(pair, edit, flips, delta, item, n_new=_n_new(flips), progress=generating)
        back = torch.tensor([came_back(int(i), t) for i, t in zip(item, texts, strict=True)])
        arms.append(ArmResult(name, back.reshape(n, len(ladder))))
    if bool(arms[0].came_back[:, 0].any()):
        raise EvidenceError(
            "the behaviour is seen under the clamp without any perturbation: the detector or the set of flips is wrong",
            code="vacuous-detector",
        )
    return LadderResult(ladder, arms[0], arms[1], _eps50(arms[0], ladder), _leak(edit, found.delta))


def _enter(stack: ExitStack, pair: Pair, edit: LatentEdit) -> PairedClamp:
    site = edit.clamp.site
    return PairedClamp(stack.enter_context(PairedBase(pair.base.model, pair.tuned.model, site)), edit)


def _n_new(flips: Sequence[Flip]) -> int:
    return max(len(f.answer_ids) for f in flips) + 8


def _generate(
    pair: Pair,
    edit: LatentEdit,
    flips: Sequence[Flip],
    delta: Float[Tensor, "row d_model"],
    item: Int[Tensor, " row"],
    *,
    n_new: int,
    progress: Progress,
    batch: int = 32,
) -> list[str]:
    """Generate under clamp and perturbation; rows are sorted as `greedy` sorts, so that row i gets delta i."""
    tuned: LoadedModel = pair.tuned
    order = sorted(range(len(item)), key=lambda r: -len(flips[int(item[r])].prompt_ids))
    texts = [""] * len(order)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        with ExitStack() as stack:
            clamp = _enter(stack, pair, edit)
            out = greedy(
                tuned.model,
                tuned.tokenizer,
                [flips[int(item[r])].prompt for r in rows],
                n_new=n_new,
                batch_size=len(rows),
                edits={edit.clamp.site: compose([clamp, AddAt(delta[torch.tensor(rows)])])},
            )
        for row, generation in zip(rows, out, strict=True):
            texts[row] = generation.text
        progress(min(start + batch, len(order)), len(order))
    return texts


def _eps50(arm: ArmResult, budgets: Sequence[float]) -> float | None:
    rate = arm.envelope().float().mean(0)
    reached = [b for b, r in zip(budgets, rate.tolist(), strict=True) if b > 0 and r >= 0.5]
    return reached[0] if reached else None


def _leak(edit: LatentEdit, delta: Float[Tensor, "row d_model"]) -> float:
    norm = delta.norm(dim=1)
    moved = norm > 0
    if not bool(moved.any()):
        return 0.0
    top = torch.linalg.matrix_norm(edit.encoder.double(), ord=2)
    drift = (delta[moved].double() @ edit.encoder.double().T).norm(dim=1)
    return float((drift / (top * norm[moved].double())).max())
