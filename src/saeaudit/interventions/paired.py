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
from saeaudit.models import decoder, resolve_site, run_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class PairedBase:
    """Context in which `residual` holds the base's residual of the tuned model's current forward pass.

    A token that only the tuned model knows is read by the base as token 0 and has no position, so it is never edited.

    Attributes:
        residual: "batch pos d_model" at the site, for the columns of the current pass.
        positions: "batch pos", position of each column in its row, counted without padding; -1 where there is nothing
            to compare: padding, and tokens that the base does not know.

    Raises:
        ModelError: unknown site; the two sides are one object (`paired-same-model`); inside the block, a pass without
            token ids (`paired-without-ids`), or one that continues a KV cache whose start was not seen here
            (`paired-cache`).
    """

    def __init__(self, base: "PreTrainedModel", tuned: "PreTrainedModel", site: str) -> None:
        if decoder(base) is decoder(tuned):
            raise ModelError(
                "base and tuned model are the same object, so an edit of one would run in the other; load them twice",
                code="paired-same-model",
            )
        self.residual: Float[Tensor, "batch pos d_model"] | None = None
        self.positions: Int[Tensor, "batch pos"] | None = None
        self._base, self._tuned = base, tuned
        self._n_blocks = resolve_site(base, site).index + 1
        self._cache: Any = None
        self._handle: Any = None

    def __enter__(self) -> Self:
        if self._handle is not None:
            raise ModelError("this PairedBase is already active; enter each one once at a time", code="hooks-attached")
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
            # Without a configuration a cache keeps every key, also where the model reads a sliding window only.
            self._cache = DynamicCache()
        followed = 0 if self._cache is None else int(self._cache.get_seq_length())
        if start != followed:
            raise ModelError(
                f"the tuned model continues after {start} cached tokens, but {followed} were read inside this block; "
                "enter PairedBase before the first pass and run one generation at a time",
                code="paired-cache",
            )
        mask = kwargs.get("attention_mask")
        mask = ids.new_ones(ids.shape[0], start + ids.shape[1]) if mask is None else mask.long()
        known = ids < self._base.get_input_embeddings().num_embeddings
        with torch.no_grad():
            self.residual = run_blocks(self._base, ids * known, mask, self._n_blocks, cache=self._cache)
        there, position = mask.bool(), mask.cumsum(1) - 1
        new = slice(-ids.shape[1], None)
        self.positions = torch.where(there[:, new] & known, position[:, new], -1)


class PairedClamp:
    """A clamp on a Diff-SAE as an edit of the tuned model: reads h_1 - h_0, writes into h_1."""

    def __init__(self, paired: PairedBase, edit: LatentEdit) -> None:
        self._paired, self._edit = paired, edit

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return the clamped residual; padding and the first positions are left as they are.

        Raises:
            ModelError: outside its `PairedBase` (code `paired-missing`).
        """
        base, positions = self._paired.residual, self._paired.positions
        if base is None or positions is None:
            raise ModelError(
                "a clamp on a difference ran outside its PairedBase; enter that context around the pass",
                code="paired-missing",
            )
        held = (positions >= self._edit.clamp.skip_first)[..., None]
        change = torch.where(held, self._edit.change(h.float() - base.float()), 0.0)
        return h if not bool(change.any()) else (h.float() + change).to(h.dtype)


class AddAt:
    """Add one vector a row at the last column of the first pass: a perturbation at the last prompt token.

    Prompts must be padded on the left; "batch" is the batch of that pass, in its order.
    """

    def __init__(self, delta: Float[Tensor, "batch d_model"]) -> None:
        self._delta = delta

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return `h` with the perturbation added, in the pass that reads the prompt only.

        Raises:
            ModelError: the pass has another number of rows (code `edit-shape`).
        """
        if start > 0:
            return h
        if h.shape[0] != self._delta.shape[0]:
            raise ModelError(
                f"{self._delta.shape[0]} perturbations were given for a pass of {h.shape[0]} rows; give one a row and "
                "run all rows in one batch",
                code="edit-shape",
            )
        changed = h.clone()
        changed[:, -1] += self._delta.to(h.dtype)
        return changed
