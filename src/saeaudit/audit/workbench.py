"""Open the models of an audit in the precision it runs in, and check that this precision is fine enough.

The models are loaded in fp32. If the hardware multiplies bf16 fast, the differences of a few documents are computed in
fp32, the models are switched to mixed precision in place, and the differences are computed again: their ratio to the
change, `delta_snr`, is recorded. Below 10 the findings carry a warning; below 3 the run stays in fp32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from saeaudit.activations import BASE, Document, delta_snr, probe_deltas, standard_library_texts, tokenise
from saeaudit.audit.config import AuditConfig
from saeaudit.audit.stages import Record, Stages, Watcher
from saeaudit.errors import NumericsError
from saeaudit.models import LoadedModel, Pair, load_model, make_pair, resolve_site
from saeaudit.models.mixed import use_mixed_precision
from saeaudit.models.precision import cpu_has_bfloat16

GOOD_SNR, LOWEST_SNR = 10.0, 3.0
N_PROBES, PROBE_LENGTH = 8, 96


@dataclass(frozen=True)
class Workbench:
    """Loaded models by side, the precision they run in, and what there is to warn about.

    Attributes:
        models: "base" and every tuned model.
        equal_weights: names of the tuned models whose weights, as loaded, are those of the base.
        precision: "float32" or "mixed".
        snr: differences' signal-to-noise ratio a tensor; empty in fp32.
        sites: resolved site names.
        seconds: time spent to load, and to probe the precision when that was done.
    """

    models: Mapping[str, LoadedModel]
    pairs: Mapping[str, Pair]
    equal_weights: frozenset[str]
    precision: str
    snr: Mapping[str, float]
    sites: list[str]
    seconds: Mapping[str, float] = field(default_factory=dict)

    def pair(self, name: str) -> Pair:
        """Return the pair of the base and one tuned model."""
        return self.pairs[name]

    def warnings(self, name: str) -> list[str]:
        """Return warnings about the two models of one pair and the precision they run in."""
        noisy = {k: v for k, v in self.snr.items() if k.endswith(f"/{name}") and v < GOOD_SNR}
        of_models = [*self.pair(name).base.warnings, *self.pair(name).tuned.warnings]
        return of_models + [
            f"At {key.split('/')[0]} the difference of the two models is only {value:.1f} times the rounding noise of "
            "mixed precision; run again with --set precision=float32 for finer numbers."
            for key, value in noisy.items()
        ]


class _Precision(Record):
    snr: dict[str, float | None]


def open_workbench(config: AuditConfig, tuned: Mapping[str, str], out: Path, watcher: Watcher) -> Workbench:
    """Load base and tuned models, check that they fit together, choose the precision.

    Raises:
        ModelError: a model cannot be loaded, or does not fit the base.
        NumericsError: mixed precision was asked for by name and is too coarse for these models.
    """
    stages = Stages(out, watcher)
    with stages.timed("load"):
        models = _load(config, tuned, watcher)
    pairs = {name: make_pair(models[BASE], models[name]) for name in tuned}
    # In fp32: mixed precision rounds small changes away.
    equal = frozenset(name for name in tuned if _equal_weights(models[BASE].model, models[name].model))
    sites = config.sites(models[BASE].card.n_layers)
    for site in sites:
        resolve_site(models[BASE].model, site)
    wanted = config.precision == "mixed" or (config.precision == "auto" and cpu_has_bfloat16())
    if not wanted:
        return Workbench(models, pairs, equal, "float32", {}, sites, stages.seconds)
    inputs = [{side: m.card.weights_sha256 for side, m in models.items()}, sites, N_PROBES, config.seed]
    exact_then_mixed = _Mixing(config, models, sites)
    record = stages.run("precision", inputs, _Precision, exact_then_mixed.measure)
    snr = {k: float("inf") if v is None else v for k, v in record.snr.items()}
    if min(snr.values(), default=float("inf")) >= LOWEST_SNR:
        exact_then_mixed.mix()
        return Workbench(models, pairs, equal, "mixed", snr, sites, stages.seconds)
    worst = min(snr, key=lambda k: snr[k])
    if config.precision == "mixed":
        raise NumericsError(
            f"mixed precision was asked for, but at {worst} the difference of the models is only {snr[worst]:.1f} "
            f"times its rounding noise (at least {LOWEST_SNR:g} is needed); use --set precision=float32",
            code="noisy-delta",
        )
    watcher.note(f"the difference at {worst} is close to rounding noise, so the run stays in float32")
    if exact_then_mixed.mixed:
        models = _load(config, tuned, watcher)
        pairs = {name: make_pair(models[BASE], models[name]) for name in tuned}
    return Workbench(models, pairs, equal, "float32", snr, sites, stages.seconds)


class _Mixing:
    """Measures the differences before and after switching the models to mixed precision."""

    def __init__(self, config: AuditConfig, models: Mapping[str, LoadedModel], sites: list[str]) -> None:
        self._config, self._models, self._sites = config, models, sites
        self.mixed = False

    def measure(self) -> _Precision:
        texts = standard_library_texts(N_PROBES, seed=self._config.seed)
        documents = tokenise(
            self._models[BASE].tokenizer,
            [Document(str(i), t) for i, t in enumerate(texts)],
            max_length=PROBE_LENGTH,
            too_long="truncate",
        )
        exact = probe_deltas(self._models, documents, self._sites, n_documents=N_PROBES)
        self.mix()
        fast = probe_deltas(self._models, documents, self._sites, n_documents=N_PROBES)
        ratio = delta_snr(exact, fast)
        return _Precision(snr={k: None if v == float("inf") else v for k, v in ratio.items()})

    def mix(self) -> None:
        if not self.mixed:
            for loaded in self._models.values():
                use_mixed_precision(loaded.model)
            self.mixed = True


def _equal_weights(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _load(config: AuditConfig, tuned: Mapping[str, str], watcher: Watcher) -> dict[str, LoadedModel]:
    models = {BASE: load_model(config.base, dtype="float32")}
    for k, (name, source) in enumerate(tuned.items()):
        models[name] = load_model(
            source, base=config.base, dtype="float32", allow_base_mismatch=config.allow_base_mismatch
        )
        watcher.progress(k + 2, len(tuned) + 1)
    return models
