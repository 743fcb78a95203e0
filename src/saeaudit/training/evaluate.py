"""How well a dictionary fits rows it was not trained on, by the inference rule."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries import Dictionary
from saeaudit.errors import EvidenceError, NumericsError
from saeaudit.statistics import StatisticsFitter


@dataclass(frozen=True)
class FitReport:
    """Fit on held-out rows; all ratios are ratios of sums, so they do not depend on the batch size.

    Attributes:
        fvu: squared error over variance of the evaluated rows, all sides: 0 is perfect, 1 is predicting the mean.
        fvu_sides: the same a side (one item where there is one side).
        fvu_delta: the same for tuned - base; None where the dictionary has one side only, or where the sides are equal
            in all rows. It can exceed 1 while `fvu` is small.
        l0: mean active latents a row.
        dead_share: share of latents that never fired in the `n_tokens` rows.
        density: "latent", share of rows in which each latent fired.
        n_tokens: rows evaluated.
    """

    fvu: float
    fvu_sides: tuple[float, ...]
    fvu_delta: float | None
    l0: float
    dead_share: float
    density: Float[Tensor, " latent"]
    n_tokens: int


class _Ratio:
    """Sum of squared errors over sum of squared deviations, streamed."""

    def __init__(self) -> None:
        self._errors: Tensor | float = 0.0
        self._statistics = StatisticsFitter()

    def update(self, x: Tensor, x_hat: Tensor) -> None:
        self._errors = self._errors + (x.double() - x_hat.double()).square().sum((0, -1))
        self._statistics.update(x)

    def sums(self) -> tuple[Tensor, Tensor]:
        statistics = self._statistics.result()
        variance = statistics.scale.double().square() * statistics.count * statistics.mean.shape[-1]
        return torch.as_tensor(self._errors), variance

    def total(self) -> float | None:
        """Return the ratio over all sides; None without rows or without variance."""
        try:
            errors, variance = self.sums()
        except NumericsError:
            return None
        return float(errors.sum() / variance.sum())


@torch.no_grad()
def evaluate(dictionary: Dictionary, batches: Iterable[Tensor]) -> FitReport:
    """Return the fit of `dictionary` on raw batches.

    Raises:
        EvidenceError: there are no rows ("no-rows").
        NumericsError: the rows are constant, so that no share of variance exists.
        InputError: a batch has another shape than the dictionary.
    """
    whole, delta = _Ratio(), _Ratio()
    fired = torch.zeros(dictionary.n_latents, dtype=torch.int64)
    n_rows = 0
    for batch in batches:
        x = dictionary.checked(batch).to(dictionary.coder.shift.device).float()
        code = dictionary.encode(x)
        x_hat = dictionary.decode(code)
        whole.update(x, x_hat)
        difference, difference_hat = dictionary.difference(x), dictionary.difference(x_hat)
        if difference is not None and difference_hat is not None:
            delta.update(difference, difference_hat)
        fired += torch.bincount(code.indices[code.values > 0].cpu(), minlength=dictionary.n_latents)
        n_rows += len(x)
    if n_rows == 0:
        raise EvidenceError("a dictionary cannot be evaluated on no rows; pass held-out batches", code="no-rows")
    errors, variance = whole.sums()
    return FitReport(
        fvu=float(errors.sum() / variance.sum()),
        fvu_sides=tuple((errors / variance).reshape(-1).tolist()),
        fvu_delta=delta.total(),
        l0=float(fired.sum()) / n_rows,
        dead_share=float((fired == 0).float().mean()),
        density=fired.float() / n_rows,
        n_tokens=n_rows,
    )
