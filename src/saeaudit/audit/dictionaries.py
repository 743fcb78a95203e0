"""Stage: train a Diff-SAE at every site, then judge its fit on tokens it has not seen."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from saeaudit.activations import BASE, tensor_name
from saeaudit.audit.session import Session
from saeaudit.audit.stages import Record
from saeaudit.dictionaries import DictionaryConfig, Kind, Provenance, build
from saeaudit.findings import DictionaryRow
from saeaudit.seeds import derive
from saeaudit.statistics import StatisticsFitter
from saeaudit.training import TrainConfig, calibrate, evaluate, tensor_batches, train


class DictionaryRecord(Record):
    """Rows of the dictionaries' table."""

    rows: list[DictionaryRow]


class _Steps:
    """Hands the training loop's steps to the watcher."""

    def __init__(self, session: Session, total: int) -> None:
        self._session, self._total = session, total

    def on_start(self, info: Mapping[str, float | int]) -> None:
        self._session.watcher.progress(0, self._total)

    def on_log(self, metrics: Mapping[str, float | int]) -> None:
        self._session.watcher.progress(int(metrics["step"]), self._total)

    def on_end(self, metrics: Mapping[str, float | int]) -> None:
        self._session.watcher.progress(self._total, self._total)


def train_dictionary(session: Session, site: str, kind: Kind) -> DictionaryRow:
    """Train, calibrate and save one dictionary; return its row of the table."""
    sizes = session.config.dictionary
    fit_rows, held_out_rows = session.data.dictionary_rows()
    x, held_out = _read(session, site, kind, fit_rows), _read(session, site, kind, held_out_rows)
    fitter = StatisticsFitter()
    fitter.update(x)
    settings = DictionaryConfig(kind=kind, n_latents=sizes.expansion * session.pair.base.card.d_model, k=sizes.k)
    dictionary = build(settings, fitter.result(), seed=derive(session.config.seed, "dictionary", site, kind))
    batch = min(sizes.batch_size, len(x))
    n_steps = max(1, math.ceil(sizes.n_samples / batch))
    batches = tensor_batches(x, batch, seed=derive(session.config.seed, "batches", site), n_steps=n_steps)
    result = train(dictionary, batches, TrainConfig(n_steps=n_steps), callbacks=(_Steps(session, n_steps),))
    calibration = calibrate(dictionary, list(held_out.split(sizes.batch_size)))
    report = evaluate(dictionary, held_out.split(sizes.batch_size))
    dictionary.provenance = Provenance(
        site=site,
        cards={"base": session.pair.base.card.as_dict(), "tuned": session.pair.tuned.card.as_dict()},
        training={"tokens": result.n_tokens, "distinct_tokens": len(x), "seconds": result.seconds, "fvu": report.fvu},
        threshold_source="calibrated",
    )
    dictionary.save(session.dictionary_path(site, kind))
    return DictionaryRow(
        site=site,
        kind=kind,
        n_latents=dictionary.n_latents,
        k=sizes.k,
        fvu=report.fvu,
        l0=calibration.l0,
        dead_share=report.dead_share,
        n_tokens=result.n_tokens,
        seconds=result.seconds,
        fvu_delta=report.fvu_delta,
    )


def dictionary_stage(session: Session, site: str, kind: Kind) -> DictionaryRecord:
    """Train one dictionary unless it was trained before from the same inputs."""
    inputs = session.identity("dictionary", site, kind, session.config.dictionary.model_dump())
    name = f"dictionary-{site}-{kind}"
    if not session.dictionary_path(site, kind).is_dir():
        session.stages.forget(name)
    return session.stages.run(
        name, inputs, DictionaryRecord, lambda: DictionaryRecord(rows=[train_dictionary(session, site, kind)])
    )


def _read(session: Session, site: str, kind: Kind, rows: np.ndarray) -> Tensor:
    store = session.store()
    if kind == "sae":
        return store.read(tensor_name(site, BASE), rows)
    delta = store.read(tensor_name(site, session.side), rows)
    if kind == "diff":
        return delta
    base = store.read(tensor_name(site, BASE), rows)
    return torch.stack([base, base + delta], dim=1)
