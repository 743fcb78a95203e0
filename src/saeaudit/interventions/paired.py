"""The base model follows the tuned model token by token, so that edits can read the difference of the two.

While the tuned model runs (a single pass, or generation with a KV cache), a hook on its decoder runs the base's first
blocks on the same token ids, mask and positions, with a cache of its own. An edit at the site then sees both residuals.
"""

from typing import TYPE_CHECKING, Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import ModelError
from saeaudit.interventions.edits import LatentEdit
from saeaudit.models import run_blocks
from saeaudit.models.sites import decoder, resolve_site

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PairedBase:
    """Context in which `residual` holds the base's residual of the tuned model's current forward pass.

    Attributes:
        residual: "batch pos d_model" at the site, for the columns of the current pass.
        positions: "batch pos", position of each column in its row, counted without padding.
    """

    def __init__(self, base: "PreTrainedModel", tuned: "PreTrainedModel", site: str) -> None:
        self.residual: Float[Tensor, "batch pos d_model"] | None = None
        self.positions: Int[Tensor, "batch pos"] | None = None
        self._base, self._tuned = base, tuned
        self._n_blocks = resolve_site(base, site).index + 1
        self._cache: Any = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        self._handle = decoder(self._tuned).register_forward_pre_hook(self._follow, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
        self._handle = self._cache = self.residual = self.positions = None

    def _follow(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        from transformers import DynamicCache

        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise ModelError(
                "an edit that reads the base needs token ids, but the tuned model was called with embeddings",
                code="paired-without-ids",
            )
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        if start == 0:
            self._cache = DynamicCache()
        mask = kwargs.get("attention_mask")
        mask = torch.ones(ids.shape[0], start + ids.shape[1], dtype=torch.long) if mask is None else mask
        with torch.no_grad():
            self.residual = run_blocks(self._base, ids, mask, self._n_blocks, cache=self._cache)
        self.positions = (mask.cumsum(1) - 1)[:, -ids.shape[1] :]


class PairedClamp:
    """A clamp on a Diff-SAE as an edit of the tuned model: reads h_1 - h_0, writes into h_1."""

    def __init__(self, paired: PairedBase, edit: LatentEdit) -> None:
        self._paired, self._edit = paired, edit

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return the clamped residual; padding and the first positions are left as they are."""
        base, positions = self._paired.residual, self._paired.positions
        if base is None or positions is None:
            raise ModelError("a clamp on a difference ran outside its PairedBase context", code="paired-missing")
        change = self._edit.change(h.float() - base.float())
        change = change * (positions >= self._edit.clamp.skip_first)[..., None]
        return h if not bool(change.any()) else (h.float() + change).to(h.dtype)


class AddAt:
    """Add one vector a row at the last column of the first pass: a perturbation at the last prompt token."""

    def __init__(self, delta: Float[Tensor, "batch d_model"]) -> None:
        self._delta = delta

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return `h` with the perturbation added, in the pass that reads the prompt only."""
        if start > 0:
            return h
        changed = h.clone()
        changed[:, -1] += self._delta.to(h.dtype)
        return changed
