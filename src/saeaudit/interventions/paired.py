"""The base model follows the tuned model token by token, so that edits can read the difference of the two.

While the tuned model runs (a single pass, or generation with a KV cache), a hook on its decoder runs the base's first
blocks on the same token ids, mask and positions, with a cache of its own. An edit at the site then sees both residuals.
"""

from typing import TYPE_CHECKING, Any, NamedTuple, Self, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.errors import ModelError
from saeaudit.interventions.edits import LatentEdit
from saeaudit.models import decoder, growing_cache, resolve_site, run_blocks

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class BaseSide(NamedTuple):
    """The base's side of a pass of the tuned model.

    Attributes:
        residual: "batch pos d_model" of the base at the site.
        positions: "batch pos", position of each column in its row, counted without padding; -1 at padding.
        known: "batch pos", False at tokens that the base does not know, where there is nothing to compare.
    """

    residual: Float[Tensor, "batch pos d_model"]
    positions: Int[Tensor, "batch pos"]
    known: Bool[Tensor, "batch pos"]


def read_base(
    base: "PreTrainedModel",
    ids: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch total"],
    n_blocks: int,
    *,
    cache: "Cache | None" = None,
) -> BaseSide:
    """Run the first blocks of the base on what the tuned model reads.

    A token that only the tuned model knows is read by the base as token 0, and no clamp changes it.
    """
    n_known = cast("int", base.get_input_embeddings().num_embeddings)
    known = ids < n_known
    with torch.no_grad():
        residual = run_blocks(base, ids * known, mask, n_blocks, cache=cache)
    there, position = mask.bool(), mask.cumsum(1) - 1
    new = slice(-ids.shape[1], None)
    return BaseSide(residual, torch.where(there, position, -1)[:, new], known)


class PairedBase:
    """Context in which `side` is the base's side of the tuned model's current pass.

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
        self.side: BaseSide | None = None
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
        self._handle = self._cache = self.side = None

    def _follow(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise ModelError(
                "an edit that reads the base needs token ids, but the tuned model was called with embeddings",
                code="paired-without-ids",
            )
        past = kwargs.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        if start == 0:
            self._cache = growing_cache(self._base)
        followed = 0 if self._cache is None else int(self._cache.get_seq_length())
        if start != followed:
            raise ModelError(
                f"the tuned model continues after {start} cached tokens, but {followed} were read inside this block; "
                "enter PairedBase before the first pass and run one generation at a time",
                code="paired-cache",
            )
        mask = kwargs.get("attention_mask")
        mask = ids.new_ones(ids.shape[0], start + ids.shape[1]) if mask is None else mask.long()
        self.side = read_base(self._base, ids, mask, self._n_blocks, cache=self._cache)


def clamped(
    h: Float[Tensor, "batch pos d_model"], base: BaseSide, edit: LatentEdit
) -> Float[Tensor, "batch pos d_model"]:
    """Return the tuned model's residual under a clamp on a Diff-SAE, which reads h_1 - h_0 and writes into h_1.

    Padding, tokens that the base does not know and the first positions are left as they are.
    """
    held = (base.known & (base.positions >= edit.clamp.skip_first))[..., None]
    change = torch.where(held, edit.change(h.float() - base.residual.float()), 0.0)
    return h if not bool(change.any()) else (h.float() + change).to(h.dtype)


class PairedClamp:
    """A clamp on a Diff-SAE as an edit of the tuned model; see `clamped`."""

    def __init__(self, paired: PairedBase, edit: LatentEdit) -> None:
        self._paired, self._edit = paired, edit

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return the clamped residual.

        Raises:
            ModelError: outside its `PairedBase` (code `paired-missing`).
        """
        return clamped(h, _aligned(self._paired), self._edit)


class AddAt:
    """Add one vector a row at one token of the row: a perturbation at the last prompt token.

    Args:
        delta: one perturbation a row of the pass, in its order.
        position: of the token in each row, counted without padding. A pass that does not hold it, such as a cached
            step after the prompt, is left alone.
        paired: knows the positions of the pass's columns.
    """

    def __init__(
        self, delta: Float[Tensor, "batch d_model"], position: Int[Tensor, " batch"], paired: PairedBase
    ) -> None:
        self._delta, self._position, self._paired = delta, position, paired

    def __call__(self, h: Float[Tensor, "batch pos d_model"], start: int) -> Float[Tensor, "batch pos d_model"]:
        """Return `h` with the perturbation added.

        Raises:
            ModelError: the pass has another number of rows (code `edit-shape`), or runs outside the `PairedBase` (code
                `paired-missing`).
        """
        positions = _aligned(self._paired).positions
        if h.shape[0] != self._delta.shape[0]:
            raise ModelError(
                f"{self._delta.shape[0]} perturbations were given for a pass of {h.shape[0]} rows; give one a row and "
                "run all rows in one batch",
                code="edit-shape",
            )
        row, column = (positions == self._position[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return h
        changed = h.clone()
        changed[row, column] += self._delta[row].to(h.dtype)
        return changed


def _aligned(paired: PairedBase) -> BaseSide:
    if paired.side is None:
        raise ModelError(
            "an edit that reads the base ran outside its PairedBase; enter that context around the pass",
            code="paired-missing",
        )
    return paired.side
