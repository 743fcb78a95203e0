"""Logits of the tuned model under many clamps at one site, for one batch of texts.

The blocks up to the site give the same residuals whatever is held there, so both models run them once; each clamp then
costs the blocks above the site only. The logits are those of whole passes under `PairedClamp`.
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saeaudit.errors import ConfigError
from saeaudit.interventions.edits import LatentEdit
from saeaudit.interventions.paired import clamped, read_base
from saeaudit.models import last_columns, position_ids, resolve_site, resumed_at, run_blocks

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SharedPass:
    """One batch of texts at one site.

    Args:
        base: base model.
        tuned: tuned model.
        site: where clamps are to hold.
        input_ids: "batch pos", padded on either side.
        attention_mask: "batch pos", 1 at tokens.

    Raises:
        ModelError: unknown site.
    """

    def __init__(
        self,
        base: "PreTrainedModel",
        tuned: "PreTrainedModel",
        site: str,
        input_ids: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"],
    ) -> None:
        self._tuned, self._site, self._ids, self._mask = tuned, site, input_ids, attention_mask
        self._n_blocks = resolve_site(tuned, site).index + 1
        self._base_side = read_base(base, input_ids, attention_mask, self._n_blocks)
        with torch.no_grad():
            self._h = run_blocks(tuned, input_ids, attention_mask, self._n_blocks)

    def logits(self, edit: LatentEdit | None = None, *, keep: int = 0) -> Float[Tensor, "batch kept vocab"]:
        """Return fp32 logits of the last `keep` columns (0: all) under a clamp, or without one.

        Raises:
            ConfigError: the clamp is at another site (code `clamp-site`).
        """
        if edit is not None and edit.clamp.site != self._site:
            raise ConfigError(
                f"a clamp at {edit.clamp.site} was asked of a pass that is shared at {self._site}", code="clamp-site"
            )
        h = self._h if edit is None else clamped(self._h, self._base_side, edit)
        with torch.no_grad():
            output = resumed_at(self._tuned, self._n_blocks, h)(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=position_ids(self._mask),
                use_cache=False,
                logits_to_keep=last_columns(keep),
            )
        return output.logits.float()
