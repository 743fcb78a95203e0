"""Everything that a pass over activations tells about one dictionary: fit, sparsity, exclusivity."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saeaudit.dictionaries import Crosscoder, Dictionary, DiffSae
from saeaudit.errors import EvidenceError, InputError
from saeaudit.metrics.code_statistics import CodeReport, CodeStatistics
from saeaudit.metrics.decoder_rows import decoder_bias, largest_cosine
from saeaudit.metrics.difference_scaling import DifferenceReport, DifferenceScaling
from saeaudit.metrics.exclusivity import Exclusivity, ExclusivityReport
from saeaudit.metrics.group_sums import N_GROUPS
from saeaudit.metrics.reconstruction import Reconstruction, ReconstructionReport


@dataclass(frozen=True)
class DictionaryReport:
    """What is known about a dictionary; see the parts for units and directions.

    Attributes:
        reconstruction: "base" (SAE), "difference" (Diff-SAE), or "base", "tuned" and "difference" (crosscoder, whose
            difference can be lost, FVU above 1, while both sides fit well).
        code: sparsity.
        largest_cosine: "latent", largest cosine of each decoder row with another.
        exclusivity: latent scaling; None for an SAE, which reads one side, and for a crosscoder whose training left
            open what both rows of a latent have in common.
    """

    reconstruction: Mapping[str, ReconstructionReport]
    code: CodeReport
    largest_cosine: Float[Tensor, " latent"]
    exclusivity: ExclusivityReport | DifferenceReport | None


class DictionaryMetrics:
    """Accumulate a `DictionaryReport` on the dictionary's device; the report is on the CPU."""

    def __init__(
        self, dictionary: Dictionary, *, density_floor: float = 1e-3, n_groups: int = N_GROUPS, seed: int
    ) -> None:
        self._dictionary = dictionary
        centres = self._views(decoder_bias(dictionary)[None])
        self._fit = {name: Reconstruction(c[0], n_groups=n_groups) for name, c in centres.items()}
        device = dictionary.coder.shift.device
        self._code = CodeStatistics(dictionary.n_latents, density_floor=density_floor, n_groups=n_groups, device=device)
        self._scaling = _scaling(dictionary, n_groups, seed)

    @property
    def mean(self) -> Float[Tensor, "*side d_model"]:
        """Mean of what the dictionary reads."""
        if isinstance(self._dictionary, Crosscoder):
            return torch.stack([self._fit["base"].mean, self._fit["tuned"].mean])
        (fit,) = self._fit.values()
        return fit.mean

    @torch.no_grad()
    def update(
        self,
        base: Float[Tensor, "row d_model"],
        difference: Float[Tensor, "row d_model"] | None,
        group: Int[Tensor, " row"],
        *,
        on_template: Bool[Tensor, " row"] | None = None,
    ) -> None:
        """Add rows: raw base activations, tuned - base, and the group of documents of each row.

        `on_template` marks rows at tokens of a chat template, if these are known.

        Raises:
            InputError: the dictionary reads the tuned side and `difference` is None (code `difference-missing`), or
                rows have another width (code `shape`).
        """
        x = self._read(base, difference)
        code = self._dictionary.encode(x)
        x_hat = self._dictionary.decode(code)
        found = self._views(x_hat)
        for name, true in self._views(x).items():
            self._fit[name].update(true, found[name], group)
        self._code.update(code, group, on_template)
        if self._scaling is not None and difference is not None:
            self._scaling.update(base, difference, code, x_hat, group)

    def merge(self, other: "DictionaryMetrics") -> None:
        """Add the rows that `other` has seen; it must be of the same dictionary, number of groups and seed."""
        for name, fit in self._fit.items():
            fit.merge(other._fit[name])
        self._code.merge(other._code)
        if self._scaling is not None:
            # The same dictionary has the same kind of scaling.
            self._scaling.merge(other._scaling)  # pyright: ignore[reportArgumentType]

    def result(self, *, n_resamples: int = 500, seed: int) -> DictionaryReport:
        """Return the report.

        Raises:
            EvidenceError: there are no rows (code `no-rows`).
        """
        return DictionaryReport(
            {name: fit.result(n_resamples=n_resamples, seed=seed) for name, fit in self._fit.items()},
            self._code.result(n_resamples=n_resamples, seed=seed),
            largest_cosine(self._dictionary.W_dec.detach()),
            None if self._scaling is None else self._scaling.result(n_resamples=n_resamples, seed=seed),
        )

    def _read(
        self, base: Float[Tensor, "row d_model"], difference: Float[Tensor, "row d_model"] | None
    ) -> Float[Tensor, "row *side d_model"]:
        if not isinstance(self._dictionary, Crosscoder | DiffSae):
            return base
        if difference is None:
            raise InputError(
                f"a {self._dictionary.kind} dictionary reads both sides; give the difference tuned - base as well",
                code="difference-missing",
            )
        return torch.stack([base, base + difference], 1) if isinstance(self._dictionary, Crosscoder) else difference

    def _views(self, x: Float[Tensor, "row *side d_model"]) -> dict[str, Float[Tensor, "row d_model"]]:
        """Return what is judged apart: the one side, the difference, or both sides and their difference."""
        difference = self._dictionary.difference(x)
        if difference is None:
            return {"base": x}
        sides = {"base": x[:, 0], "tuned": x[:, 1]} if isinstance(self._dictionary, Crosscoder) else {}
        return sides | {"difference": difference}


def _scaling(dictionary: Dictionary, n_groups: int, seed: int) -> Exclusivity | DifferenceScaling | None:
    if isinstance(dictionary, DiffSae):
        return DifferenceScaling(dictionary, n_groups=n_groups, seed=seed)
    if not isinstance(dictionary, Crosscoder):
        return None
    try:
        return Exclusivity(dictionary, n_groups=n_groups, seed=seed)
    except EvidenceError:  # its norms are not determined, so neither is the direction to compare the sides along
        return None
