"""Put a dictionary's reconstruction in the place of the residual stream, and look at what the model says then.

Per document: (1) run each side as it is and keep the residual at the site; (2) reconstruct it at the kept positions;
(3) run the side again with the reconstruction in its place, the other positions untouched. References are runs with
zero and with the mean in that place. For a Diff-SAE it is the *difference* that is reconstructed: the tuned model gets
h0 + Δ̂ and the base h1 - Δ̂, so that its zero is the residual of the other model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.dictionaries import Dictionary
from saeaudit.errors import ConfigError
from saeaudit.metrics.behaviour import ARMS, SpliceDamage
from saeaudit.models import Capture, Edit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Residuals = Mapping[str, Float[Tensor, "row d_model"]]


@torch.no_grad()
def splice_damage(
    dictionary: Dictionary,
    site: str,
    models: Mapping[str, "PreTrainedModel"],
    documents: Sequence[Sequence[int]],
    *,
    mean: Float[Tensor, "*side d_model"],
    skip_first: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SpliceDamage]:
    """Return what splicing does, by side that the dictionary reconstructs.

    Args:
        dictionary: read as "base" activations (SAE), or as base and tuned (Diff-SAE, crosscoder).
        site: such as "layers.13".
        models: "base", and "tuned" where the dictionary reads it.
        documents: token ids of each; those with no position to judge are left out. One is a group of its own.
        mean: mean of what the dictionary reads, the second reference.
        skip_first: leading positions that keep their residual.
        progress: called with (documents done, documents).

    Raises:
        ConfigError: a model that the dictionary reads is missing (code `models-missing`).
        ModelError: unknown site.
    """
    sides = spliced_sides(dictionary, models)
    damage = {side: SpliceDamage(n_groups=len(documents)) for side in sides}
    for i, document in enumerate(documents):
        if len(document) > skip_first + 1:
            ids = torch.tensor([document])
            clean, residuals = {}, {}
            for side in sides:
                clean[side], residuals[side] = _run(models[side], site, ids, skip_first)
            replaced = replacements(dictionary, residuals, mean)
            for side in sides:
                spliced = {arm: _spliced(models[side], site, ids, replaced[arm][side], skip_first) for arm in ARMS}
                following = ids[0, skip_first + 1 :]
                damage[side].update(clean[side], spliced, following, torch.full_like(following, i))
        if progress is not None:
            progress(i + 1, len(documents))
    return damage


def spliced_sides(dictionary: Dictionary, given: Collection[str]) -> tuple[str, ...]:
    """Return the sides that the dictionary is spliced into.

    Raises:
        ConfigError: one is not among the `given` models (code `models-missing`).
    """
    sides = ("base",) if dictionary.kind == "sae" else ("base", "tuned")
    if missing := [side for side in sides if side not in given]:
        raise ConfigError(
            f"a {dictionary.kind} dictionary is spliced into {' and '.join(sides)}; the {' and the '.join(missing)} "
            "model is missing, give it",
            code="models-missing",
        )
    return sides


def replacements(
    dictionary: Dictionary, residuals: Residuals, mean: Float[Tensor, "*side d_model"]
) -> dict[str, dict[str, Float[Tensor, "row d_model"]]]:
    """Return what takes the place of each side's residual, by arm and side."""
    device = dictionary.coder.shift.device
    h = torch.stack([residual.to(device, torch.float32) for residual in residuals.values()], 1)
    base, tuned = h[:, 0], h[:, -1]
    x = {"sae": base, "diff": tuned - base, "crosscoder": h}[dictionary.kind]
    estimates = {
        "splice": dictionary.decode(dictionary.encode(x)),
        "zero": torch.zeros_like(x),
        "mean": mean.to(x).expand_as(x),
    }
    if dictionary.kind == "diff":
        return {arm: {"base": tuned - e, "tuned": base + e} for arm, e in estimates.items()}
    return {arm: dict(zip(residuals, e.reshape(h.shape).unbind(1), strict=True)) for arm, e in estimates.items()}


def _run(
    model: "PreTrainedModel", site: str, ids: Int[Tensor, "1 pos"], skip_first: int
) -> tuple[Float[Tensor, "token vocab"], Float[Tensor, "row d_model"]]:
    """Return (logits that predict a token from a kept position, residuals of the kept positions)."""
    with Capture(model, [site]) as captured:
        logits = _logits(model, ids, skip_first)
    return logits, captured.values[site][0, skip_first:]


def _spliced(
    model: "PreTrainedModel",
    site: str,
    ids: Int[Tensor, "1 pos"],
    replacement: Float[Tensor, "row d_model"],
    skip_first: int,
) -> Float[Tensor, "token vocab"]:
    def edit(h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        return torch.cat([h[:, :skip_first], replacement[None].to(h)], 1)

    with Edit(model, {site: edit}):
        return _logits(model, ids, skip_first)


def _logits(model: "PreTrainedModel", ids: Int[Tensor, "1 pos"], skip_first: int) -> Float[Tensor, "token vocab"]:
    out = model(input_ids=ids.to(model.device), use_cache=False, logits_to_keep=ids.shape[1] - skip_first)
    return out.logits[0, :-1].float()
