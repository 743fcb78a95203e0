"""The methods of the paper's experiment and its controls, as functions from rows to activations.

Controls on the same rows: the direction between the class means, the norm of the difference, random directions (as many
as the widest dictionary has latents) of the difference and of the base model alone, and the number of times that the
year stands in the text, which reads no model at all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.detection import BASELINES, PairedRows
from saeaudit.seeds import torch_generator
from saeaudit.studies.isolation.paper.census import year_count
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.dictionaries import fit_paper_dictionary
from saeaudit.studies.isolation.paper.names import PaperMethod

EXPANSION = 32


@dataclass(frozen=True)
class Fitted:
    """A method fitted to some rows.

    Attributes:
        activate: activations of every latent (or the one score of a control) on any rows.
        fvu: of a dictionary, on the rows that it was fitted to.
    """

    activate: Callable[[PairedRows], Float[Tensor, "row latent"]]
    fvu: float | None = None


def fit_method(rows: PairedRows, method: PaperMethod, config: PaperConfig) -> Fitted:
    """Fit a method; only dictionaries and `mean-difference` depend on the rows."""
    match method:
        case "mean-difference":
            score = BASELINES["mean difference"](rows, seed=config.seed)
            return Fitted(lambda new: score(new)[:, None])
        case "difference-norm":
            return Fitted(lambda new: new.delta.norm(dim=1)[:, None])
        case "random-directions":
            directions = _random_directions(rows, config.seed)
            return Fitted(lambda new: new.delta @ directions)
        case "random-directions-base":
            directions = _random_directions(rows, config.seed)
            return Fitted(lambda new: new.h0 @ directions)
        case "year-count":
            return Fitted(lambda new: _column([float(year_count(text)) for text in new.text]))
        case "year-share":
            return Fitted(lambda new: _column([year_count(text) / len(text) for text in new.text]))
        case _:
            found = fit_paper_dictionary(rows, method, config)
            return Fitted(found.activations, found.fit.fvu)


def _random_directions(rows: PairedRows, seed: int) -> Float[Tensor, "d_model latent"]:
    d_model = rows.delta.shape[1]
    generator = torch_generator(seed, "paper", "random-directions")
    directions = torch.randn(d_model, EXPANSION * d_model, generator=generator)
    return directions / directions.norm(dim=0)


def _column(values: list[float]) -> Float[Tensor, "row 1"]:
    return torch.tensor(values, dtype=torch.float64)[:, None]
