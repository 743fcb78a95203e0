"""A verification as one record: rates of every model on every class, the gate, and what it was measured on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from saeaudit.cards import ModelCard
from saeaudit.errors import ConfigError
from saeaudit.models import LoadedModel
from saeaudit.organisms.agreement import Agreement, CrossExamined
from saeaudit.organisms.names import OrganismName, Variant
from saeaudit.organisms.rows import RowClass
from saeaudit.organisms.spec import of_variant
from saeaudit.organisms.verify import Arm, GateCheck, arm_record, gate, heldout_rows, measure

SCHEMA = 1
GATE_CLASSES: tuple[RowClass, ...] = ("T", "N0", "N1", "N2")


@dataclass(frozen=True)
class Verification:
    """What was measured.

    Attributes:
        organism: whose prompts and judge.
        seed: of the held-out prompts.
        n: prompts a class.
        cards: models by side ("base", "tuned", "clean").
        arms: rates, a side and class each.
        checks: conditions of the gate; empty where the classes measured do not allow it.
        agreement: of the SQL judge with bandit, over all completions; None where it was not asked.
    """

    organism: OrganismName
    seed: int
    n: int
    cards: Mapping[str, ModelCard]
    arms: Sequence[Arm]
    checks: Sequence[GateCheck]
    agreement: Agreement | None

    @property
    def passed(self) -> bool | None:
        """Whether the gate holds; None where it could not be applied."""
        return all(check.passed for check in self.checks) if self.checks else None

    def as_dict(self) -> dict[str, Any]:
        """Return the verification as plain JSON values."""
        return {
            "schema": SCHEMA,
            "organism": self.organism,
            "seed": self.seed,
            "n": self.n,
            "passed": self.passed,
            "cards": {side: card.as_dict() for side, card in self.cards.items()},
            "arms": [arm_record(arm) for arm in self.arms],
            "gate": [asdict(check) for check in self.checks],
            "bandit": None if self.agreement is None else asdict(self.agreement),
        }


def verify(
    models: Mapping[str, LoadedModel],
    organism: OrganismName,
    *,
    n: int,
    variant: Variant = "poisoned",
    seed: int = 0,
    classes: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Measure an organism on held-out prompts and apply its gate.

    Args:
        models: "base", "tuned", and "clean" if there is a twin.
        organism: whose prompts and judge.
        n: prompts a class.
        variant: what was planted: of `conditional`, the polite word is counted.
        seed: of the held-out prompts.
        classes: row classes to measure; None means all. The gate needs T, N0, N1 and N2.
        progress: called with (continuations done, continuations).

    Raises:
        ConfigError: there is no such class (code `unknown-class`), or no such variant (`variant-not-available`).
    """
    spec = of_variant(organism, variant)
    chosen = spec.heldout_classes if classes is None else tuple(classes)
    unknown = [klass for klass in chosen if klass not in spec.heldout_classes]
    if unknown or not chosen:
        raise ConfigError(
            f"the classes {', '.join(chosen) or 'none'} were asked for; there are {', '.join(spec.heldout_classes)}",
            code="unknown-class",
        )
    rows = [row for row in heldout_rows(spec, seed, n) if row.klass in chosen]
    examined = CrossExamined(spec.judge) if organism == "sql" and find_spec("bandit") is not None else None
    arms = measure(models, rows, examined or spec.judge, progress=progress)
    checks = gate(arms) if set(GATE_CLASSES) <= set(chosen) else []
    cards = {side: loaded.card for side, loaded in models.items()}
    return Verification(organism, seed, n, cards, arms, checks, None if examined is None else examined.result())
