"""The dictionaries of the paper's experiment, each trained on the rows that it is then scored on, and corrected twins.

`diff-32x`, `diff-4x` and `crosscoder-32x` are the presets of the published code. The others answer a fault each:
`diff-32x-corrected` normalises the tied rows by latent and not by coordinate (W9), `diff-32x-matched` keeps the 32
largest activations of a row, as the crosscoder does (W10), `crosscoder-32x-corrected` is our crosscoder, with scaled
inputs, an encoder of its own and our learning rate (W11), and `sae-4x-base` is `diff-4x` reading the base alone (W7).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.audit.device import own_device
from saeaudit.detection import PairedRows
from saeaudit.dictionaries import Dictionary, DictionaryConfig, Kind, Penalty, PublishedConfig, build
from saeaudit.seeds import derive
from saeaudit.statistics import StatisticsFitter
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.names import DictionaryMethod
from saeaudit.training import FitReport, Preset, TrainConfig, evaluate, preset, raw_units, tensor_batches, train

CROSSCODER_K = 32
PENALTY = 1e-4  # of the mean activation over rows and latents


@dataclass(frozen=True)
class PaperDictionary:
    """A trained dictionary and how well it fits the rows it was trained on."""

    dictionary: Dictionary
    fit: FitReport

    def activations(self, rows: PairedRows) -> Float[Tensor, "row latent"]:
        """Return what every latent does on the rows, dense, by the inference rule."""
        device = self.dictionary.coder.shift.device
        every = torch.arange(self.dictionary.n_latents, device=device)
        with torch.no_grad():
            return self.dictionary.activations(_input(self.dictionary.kind, rows).to(device), every).cpu()


def fit_paper_dictionary(rows: PairedRows, method: DictionaryMethod, config: PaperConfig) -> PaperDictionary:
    """Train a dictionary on all rows, the trigger's included, as the paper does.

    Raises:
        ModelError: there is no such device (`device-unavailable`).
        NumericsError: what it reads is constant (`degenerate-activations`), or training diverged.
    """
    x = _input(_kind(method), rows)
    batch_size = min(256, len(x))
    recipe = paper_recipe(method, d_model=x.shape[-1], n_steps=max(1, round(config.epochs * len(x) / batch_size)))
    fitter = StatisticsFitter()
    fitter.update(x)
    stats = fitter.result()
    seed = derive(config.seed, "paper", method) % 2**31
    dictionary = build(recipe.dictionary, stats if recipe.scaled else raw_units(stats), seed=seed)
    dictionary.to(own_device(config.device))
    train(dictionary, tensor_batches(x, batch_size, seed=seed, n_steps=recipe.train.n_steps), recipe.train)
    return PaperDictionary(dictionary, evaluate(dictionary, x.split(batch_size)))


def paper_recipe(method: DictionaryMethod, *, d_model: int, n_steps: int) -> Preset:
    """Return the recipe of a method for a residual width and a number of steps of up to 256 rows."""
    source = "crosscoder-backdoor" if _kind(method) == "crosscoder" else "diffsae-backdoor"
    found = preset(source, d_model=d_model, n_steps=n_steps)
    match method:
        case "diff-4x":
            return replace(found, dictionary=_narrowed(found.dictionary, d_model))
        case "sae-4x-base":
            return replace(found, dictionary=_narrowed(found.dictionary, d_model).model_copy(update={"kind": "sae"}))
        case "diff-32x-corrected":
            published = (found.dictionary.published or PublishedConfig()).model_copy(update={"tied": "rows"})
            return replace(found, dictionary=found.dictionary.model_copy(update={"published": published}))
        case "diff-32x-matched":
            matched = DictionaryConfig(
                kind="diff",
                n_latents=found.dictionary.n_latents,
                k=CROSSCODER_K,
                sparsity="topk",
                aux_alpha=0.0,
                penalty=found.dictionary.penalty,
                published=PublishedConfig(tied="columns", plain_penalty=True),
            )
            return replace(found, dictionary=matched)
        case "crosscoder-32x-corrected":
            ours = DictionaryConfig(kind="crosscoder", n_latents=found.dictionary.n_latents, k=CROSSCODER_K)
            return replace(found, dictionary=ours, train=TrainConfig(n_steps=n_steps), scaled=True)
        case _:
            return found


def _narrowed(config: DictionaryConfig, d_model: int) -> DictionaryConfig:
    """Return the Diff-SAE of 4 latents a coordinate: the mean over latents makes its penalty heavier a latent."""
    penalty = Penalty(weight=PENALTY / 4, warmup=0.0)
    return config.model_copy(update={"n_latents": 4 * d_model, "penalty": penalty})


def _kind(method: DictionaryMethod) -> Kind:
    return "crosscoder" if method.startswith("crosscoder") else "sae" if method.startswith("sae") else "diff"


def _input(kind: Kind, rows: PairedRows) -> Float[Tensor, "row *axes"]:
    match kind:
        case "crosscoder":
            return torch.stack([rows.h0, rows.h1], dim=1)
        case "sae":
            return rows.h0
        case "diff":
            return rows.delta
