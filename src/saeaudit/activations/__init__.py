"""Activations of model pairs: documents, harvest, store, neutral text."""

from saeaudit.activations.corpora import standard_library_texts
from saeaudit.activations.cost import HarvestCost, flop_rate, forward_flop, harvest_cost
from saeaudit.activations.documents import Document, TokenisedDocuments, tokenise
from saeaudit.activations.harvest import BASE, HarvestConfig, delta_snr, harvest, probe_deltas, tensor_name
from saeaudit.activations.store import ActivationStore, StoreWriter, UnitText

__all__ = [
    "BASE",
    "ActivationStore",
    "Document",
    "HarvestConfig",
    "HarvestCost",
    "StoreWriter",
    "TokenisedDocuments",
    "UnitText",
    "delta_snr",
    "flop_rate",
    "forward_flop",
    "harvest",
    "harvest_cost",
    "probe_deltas",
    "standard_library_texts",
    "tensor_name",
    "tokenise",
]
