"""What dictionaries read from a store: the base, the difference, or both sides of a site."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.activations import BASE, ActivationStore, tensor_name
from saeaudit.dictionaries import Kind
from saeaudit.errors import EvidenceError
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import WindowedBatches
from saeaudit.wording import counted

HELD_OUT = 1 / 8
MIN_HELD_OUT = 16
_BLOCK_ROWS = 4096


class Input(NamedTuple):
    """One view of the rows of a store."""

    site: str
    kind: Kind
    side: str

    @property
    def name(self) -> str:
        return "/".join(self)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Tensors of the store that it is made of."""
        base, delta = tensor_name(self.site, BASE), tensor_name(self.site, self.side)
        return {"sae": (base,), "diff": (delta,), "crosscoder": (base, delta)}[self.kind]

    def of(self, parts: Mapping[str, Float[Tensor, "row d_model"]]) -> Float[Tensor, "row *side d_model"]:
        """Return the view from its tensors; a crosscoder reads both sides, base and base + difference."""
        if len(self.tensors) == 1:
            return parts[self.tensors[0]]
        base, delta = (parts[name] for name in self.tensors)
        return torch.stack([base, base + delta], dim=1)


def held_out_from(document_bounds: np.ndarray) -> int:
    """Return the first row that training leaves out: a document begins there, as near as can be to the last eighth.

    Args:
        document_bounds: "doc+1", first row of each document and the number of rows.

    Raises:
        EvidenceError: there is but one document with rows, or too few rows ("too-few-rows").
    """
    n_rows = int(document_bounds[-1])
    inside = document_bounds[(document_bounds > 0) & (document_bounds < n_rows)]
    if not len(inside) or n_rows * HELD_OUT < MIN_HELD_OUT:
        raise EvidenceError(
            f"found {counted(n_rows, 'row')} of {'several documents' if len(inside) else 'one document'}; an eighth is "
            f"held out, in whole documents, for which at least {round(MIN_HELD_OUT / HELD_OUT)} rows of several "
            "documents are needed: harvest more text",
            code="too-few-rows",
        )
    return int(inside[np.abs(inside - n_rows * (1 - HELD_OUT)).argmin()])


def tensors_of(inputs: Iterable[Input]) -> list[str]:
    """Return the tensors that some inputs need, each once."""
    return sorted({name for read in inputs for name in read.tensors})


def fit_statistics(store: ActivationStore, inputs: Iterable[Input], rows: np.ndarray) -> dict[Input, StatisticsFitter]:
    """Return mean and scale of each input over `rows`, still as fitters; every tensor is read once."""
    fitters = {read: StatisticsFitter() for read in inputs}
    tensors = tensors_of(fitters)
    for start in range(0, len(rows), _BLOCK_ROWS):
        parts = {name: store.read(name, rows[start : start + _BLOCK_ROWS]) for name in tensors}
        for read, fitter in fitters.items():
            fitter.update(read.of(parts))
    return fitters


@dataclass(frozen=True)
class InputBatches:
    """Shuffled batches {input name: raw rows}: each tensor of the store is read once a batch, whoever needs it."""

    rows: WindowedBatches
    inputs: frozenset[Input]

    def __iter__(self) -> Iterator[dict[str, Float[Tensor, "batch *side d_model"]]]:
        return self.starting_at(0)

    def starting_at(self, step: int) -> Iterator[dict[str, Float[Tensor, "batch *side d_model"]]]:
        """Return the batches from 0-based `step` on."""
        for parts in self.rows.starting_at(step):
            yield {read.name: read.of(parts) for read in self.inputs}


@dataclass(frozen=True)
class OneInput:
    """Shuffled batches of one input as plain tensors on a device."""

    rows: WindowedBatches
    read: Input
    device: torch.device

    def __iter__(self) -> Iterator[Float[Tensor, "batch *side d_model"]]:
        return (self.read.of(parts).to(self.device) for parts in self.rows)
