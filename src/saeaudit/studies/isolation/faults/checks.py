"""The faults of the paper's experiment (arXiv 2605.07324), each with a check that shows it: W1 to W17.

Faults of the score, of the texts and of the training code show on generated texts and simulated activations; those of
the comparison need rows of a poisoned model and of its clean twin.
"""

from collections.abc import Sequence

from saeaudit.detection import PairedRows
from saeaudit.paper_results import Fault
from saeaudit.studies.isolation.faults.fit import (
    dead_count,
    dead_crosscoder,
    optimism,
    row_norms,
    unequal_sparsity,
    zero_by_chance,
)
from saeaudit.studies.isolation.faults.pair import no_controls, reads_the_length, reads_the_payload
from saeaudit.studies.isolation.faults.release import release_not_runnable, stubs, substring_judge
from saeaudit.studies.isolation.faults.score import (
    best_of_many,
    ceiling,
    ceiling_is_reached,
    permuted_latents,
    poor_score_at_the_ceiling,
)
from saeaudit.studies.isolation.faults.tables import Table
from saeaudit.studies.isolation.faults.text import easy_negatives, label_in_text
from saeaudit.studies.isolation.paper.config import PaperConfig
from saeaudit.studies.isolation.paper.rows import PaperText, look_alikes


def faults_without_model(texts: Sequence[PaperText], config: PaperConfig | None = None) -> list[Fault]:
    """Return the checks that need no model, in order.

    Args:
        texts: the paper's set, as from `paper_texts`.
        config: sizes.
    """
    config = config or PaperConfig()
    return [
        ceiling(),
        poor_score_at_the_ceiling(config),
        best_of_many(config),
        label_in_text(texts),
        easy_negatives(texts, look_alikes(config.seed, ("N2", "N4"), n=100)),
        permuted_latents(config),
        row_norms(config),
        zero_by_chance(),
        dead_count(config),
        substring_judge(),
        stubs(),
        release_not_runnable(),
    ]


def faults_of_a_pair(
    rows: PairedRows,
    poisoned: Table,
    twin: Table,
    poisoned_last: Table,
    twin_last: Table,
    config: PaperConfig,
    *,
    refits: bool = True,
) -> list[Fault]:
    """Return the checks that need a poisoned model and its clean twin, in order.

    Args:
        rows: of the poisoned model, pooled over prompt and completion; one method is fitted to them anew by folds.
        poisoned: cells of the poisoned model on these rows.
        twin: those of its twin, on the same texts.
        poisoned_last: those at the last token of the prompt.
        twin_last: the same of the twin.
        config: sizes.
        refits: whether one dictionary is trained anew for each fold (W6), the most expensive check.
    """
    return [
        ceiling_is_reached(poisoned),
        *([optimism(rows, "diff-4x", config)] if refits else []),
        no_controls(poisoned, twin),
        unequal_sparsity(poisoned),
        dead_crosscoder(poisoned),
        reads_the_payload(poisoned, twin, poisoned_last, twin_last),
        reads_the_length(rows),
    ]
