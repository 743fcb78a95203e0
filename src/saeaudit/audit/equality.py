"""Stage: do the two models compute different things at all? Asked before anything is harvested.

The models read document after document in full, and the first document on which a residual stream or a logit differs
ends the search; for two models that differ this is nearly always the first one. Equal weights are read on a few
documents only. Where weights differ and outputs do not, every document of the audit is read: a changed embedding of a
rare token shows in no other text.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.errors import NumericsError
from saeaudit.models import Capture, LoadedModel, site_name

N_PROBES = 8
LOGITS = "the logits"


class EqualityRecord(Record):
    """Whether the models differ, and where.

    Attributes:
        equal_weights: whether all weights are equal, as loaded.
        first_difference: where the models first differ, "layers.N" or "the logits", on the first document on which
            they do; None: nowhere, to the last bit.
        n_documents: documents that were read.
        largest_value: largest |value| of residuals and logits on the documents on which they are equal.
    """

    equal_weights: bool
    first_difference: str | None
    n_documents: int
    largest_value: float

    @property
    def same(self) -> bool:
        """Whether the models computed the same outputs on every document that was read."""
        return self.first_difference is None


def equality_stage(session: Session, *, equal_weights: bool) -> EqualityRecord:
    """Compare once; the record is reused.

    Raises:
        NumericsError: a model computes NaN or infinity (code `non-finite`), also above the blocks that are harvested.
    """
    inputs = session.identity("equality", equal_weights)
    return session.stages.run("equality", inputs, EqualityRecord, lambda: _compare(session, equal_weights))


def _compare(session: Session, equal_weights: bool) -> EqualityRecord:
    documents = session.data.documents.ids
    n = min(N_PROBES, len(documents)) if equal_weights else len(documents)
    chosen = np.linspace(0, len(documents) - 1, n).astype(int)
    largest = 0.0
    for done, i in enumerate(chosen, start=1):
        base, tuned = (_outputs(side, documents[i]) for side in (session.pair.base, session.pair.tuned))
        for side, outputs in (("base", base), ("tuned", tuned)):
            _require_finite(outputs, side, session.data.documents.documents[i].doc_id)
        different = next((place for place in base if not torch.equal(base[place], tuned[place])), None)
        if different is not None:
            return EqualityRecord(
                equal_weights=equal_weights, first_difference=different, n_documents=done, largest_value=largest
            )
        largest = max(largest, *(float(values.abs().max()) for values in base.values()))
        session.watcher.progress(done, n)
    return EqualityRecord(equal_weights=equal_weights, first_difference=None, n_documents=n, largest_value=largest)


def _require_finite(outputs: Mapping[str, Tensor], side: str, document: str) -> None:
    for place, values in outputs.items():
        broken = ~torch.isfinite(values).all(-1)[0]
        if bool(broken.any()):
            raise NumericsError(
                f"{place} of the {side} model are NaN or infinite in document {document!r} at token "
                f"{int(broken.nonzero()[0])}; check the weights, or try --set precision=float32",
                code="non-finite",
            )


@torch.no_grad()
def _outputs(loaded: LoadedModel, ids: tuple[int, ...]) -> dict[str, Tensor]:
    """Return the residual stream after every block, from the first on, and the logits."""
    model = loaded.model
    with Capture(model, [site_name(i) for i in range(loaded.card.n_layers)]) as captured:
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return captured.values | {LOGITS: logits}
