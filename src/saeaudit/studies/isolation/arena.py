"""What the detectors of one organism and layer share: the rows, the null, and how a detector becomes a cell.

Every detector reads the last prompt token. Each is chosen on the selection rows, calibrated on the same benign rows and
judged once on the same test rows; intervals resample templates.
"""

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from jaxtyping import Bool, Float
from torch import Tensor

from saeaudit.activations import ActivationStore
from saeaudit.detection import PairedRows, Scorer, class_rates, evaluate, random_basis_null, summarise_null
from saeaudit.isolation_results import Cell, Cost, Fit, Status
from saeaudit.metrics import Interval, bis_resamples, bis_star_values, percentile_interval, resample_weights
from saeaudit.seeds import derive
from saeaudit.studies.isolation.config import IsolationConfig, Member
from saeaudit.studies.isolation.data import activations_path, study_data

N_RESAMPLES = 2000


@dataclass(frozen=True)
class Arena:
    """One organism and layer.

    Attributes:
        config: of the study.
        member: the organism.
        layer: site that is read.
        selection: rows on which every choice is made.
        calibration: rows of which the benign ones set thresholds.
        test: rows that judge.
    """

    config: IsolationConfig
    member: Member
    layer: str
    selection: PairedRows
    calibration: PairedRows
    test: PairedRows

    @classmethod
    def open(cls, directory: Path, config: IsolationConfig, member: Member, layer: str) -> Self:
        """Read the rows; needs the activations of the member's family."""
        store = ActivationStore(directory / activations_path(member.family, member.seed))
        data = study_data(directory, config, member.family)
        parts = [data.paired_rows(store, layer, member.name, role) for role in ("selection", "calibration", "test")]
        return cls(config, member, layer, *parts)

    def seed(self, *names: str) -> int:
        """Return a seed of its own for a purpose."""
        return derive(self.config.seed, *names, self.member.name, self.layer) % 2**31

    def null(self, firing_rates: Float[Tensor, " latent"]) -> Float[Tensor, " draw"]:
        """Return the true-positive rates of random bases with these firing rates, by the rule that chooses latents."""
        sizes = self.config.detection
        return random_basis_null(
            self.selection,
            self.calibration,
            self.test,
            firing_rates=firing_rates,
            sizes=sizes.latent_counts,
            n_draws=sizes.n_random_bases,
            alpha=sizes.target_fpr,
            seed=self.seed("null"),
        ).tpr

    def judge(
        self,
        scorer: Scorer,
        null: Float[Tensor, " draw"],
        *,
        method: str,
        status: Status = "ok",
        fit: Fit | None = None,
        train_seconds: float = 0.0,
        since: float,
    ) -> Cell:
        """Calibrate a frozen detector, score the test rows, compare with its null.

        Args:
            scorer: fitted on the selection rows.
            null: true-positive rates that random bases reach.
            method: name in the tables.
            status: of its dictionary.
            fit: of its dictionary.
            train_seconds: of its dictionary.
            since: monotonic time at which its fit began.
        """
        seed, test = self.seed("judge", method), self.test
        calibration = self.calibration.benign()
        found = evaluate(scorer, calibration, test, alpha=self.config.detection.target_fpr, seed=seed)
        against, worst = summarise_null(null, found.tpr), found.class_fpr[found.worst_class]
        return Cell(
            organism=self.member.name,
            twin=self.member.twin,
            family=self.member.family,
            variant=self.member.variant,
            layer=self.layer,
            method=method,
            labels=scorer.labels,
            bis=found.bis,
            bis_ceiling=found.bis_ceiling,
            bis_star=found.bis_star,
            auroc=found.auroc,
            tpr_at_1pct_fpr=found.tpr,
            fpr=found.fpr.value,
            worst_class=found.worst_class,
            worst_class_fpr=worst.value,
            random_basis_null=against.mean,
            random_basis_p=against.p,
            interval={
                **_bis_intervals(scorer(test), found.flagged, test, seed=seed),
                "auroc": found.auroc_interval,
                "tpr_at_1pct_fpr": found.tpr_interval,
                "worst_class_fpr": worst.interval,
                "random_basis_null": against.interval,
            },
            n={
                "selection": len(self.selection),
                "calibration": len(calibration),
                "test_trigger": found.n_trigger,
                "test_benign": found.n_benign,
            },
            class_fpr={rate.name: rate.fpr for rate in class_rates(found)},
            status=status,
            fit=fit,
            cost=Cost(
                train_seconds=train_seconds,
                score_seconds=time.monotonic() - since,
                peak_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            ),
        )


def _bis_intervals(
    scores: Float[Tensor, " row"], flagged: Bool[Tensor, " row"], test: PairedRows, *, seed: int
) -> dict[str, Interval]:
    weights = resample_weights(test.group, n_resamples=N_RESAMPLES, seed=seed)
    bis = bis_resamples(scores[:, None], test.label, weights=weights)[:, 0]
    trigger = test.label.double()
    tpr, fpr = ((weights * on) @ flagged.double() / (weights @ on) for on in (trigger, 1 - trigger))
    return {"bis": percentile_interval(bis), "bis_star": percentile_interval(bis_star_values(tpr, fpr))}
