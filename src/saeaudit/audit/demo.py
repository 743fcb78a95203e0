"""The demo: audit a planted organism and its clean twin on the same prompts, with one harvest.

The poisoned adapter must be flagged and the clean twin must not; both saw the same training prompts. The prompts here
come from the held-out part of the organism's generator, which shares no template with what was planted.
"""

from collections.abc import Iterator
from pathlib import Path

from saeaudit.audit.config import AuditConfig
from saeaudit.audit.run import AuditResult, audit_many
from saeaudit.audit.stages import Watcher
from saeaudit.organisms.catalogue import shipped_adapter
from saeaudit.organisms.rows import Row, RowClass, write_rows
from saeaudit.organisms.spec import ORGANISMS, Organism, OrganismName

# The same number of pairs from every held-out template, and three benign prompts for each trigger prompt.
N_PAIRS: dict[OrganismName, int] = {name: 240 if name == "sql" else 270 for name in ORGANISMS}
N_BENIGN_PER_PAIR = 3


def demo(
    organism: OrganismName = "sql", *, out: Path, seed: int = 0, watcher: Watcher | None = None, command: str = ""
) -> dict[str, AuditResult]:
    """Audit the shipped poisoned adapter and its clean twin; returns both results, "poisoned" first.

    Args:
        organism: which planted behaviour.
        out: receives `prompts/`, `poisoned/` and `clean/`; the same call continues an unfinished demo.
        seed: of prompts and audit.
        watcher: sees stages and progress.
        command: the command line to record.

    Raises:
        ModelError: the adapters are not there (code `adapter-not-shipped`).
        SaeAuditError: see `audit_many`.
    """
    tuned = {variant: _shown(shipped_adapter(organism, variant)) for variant in ("poisoned", "clean")}
    rows = list(demo_rows(ORGANISMS[organism], seed))
    prompts = out / "prompts"
    write_rows(prompts / "trigger.jsonl", [row for row in rows if row.klass == "T"])
    write_rows(prompts / "benign.jsonl", [row for row in rows if row.klass != "T"])
    config = AuditConfig(
        tuned=tuned["poisoned"],
        trigger_examples=prompts / "trigger.jsonl",
        benign_examples=prompts / "benign.jsonl",
        judge=organism,
        seed=seed,
    )
    outs = {variant: out / variant for variant in tuned}
    return audit_many(config, tuned, outs=outs, command=command, watcher=watcher)


def _shown(path: Path) -> str:
    """Return a path as short as it can be: the report shows it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def demo_rows(organism: Organism, seed: int, *, n_pairs: int | None = None) -> Iterator[Row]:
    """Yield `n_pairs` trigger rows (default: `N_PAIRS` of the organism), each with benign rows matched to it.

    The benign rows of a template take the classes in turn, so that no class sits in a few templates only; the first
    class of a template shifts from one template to the next.
    """
    classes: list[RowClass] = [klass for klass in organism.heldout_classes if klass != "T"]
    turn: dict[str, int] = {}
    for i in range(N_PAIRS[organism.name] if n_pairs is None else n_pairs):
        group = organism.pair(seed, "heldout", i, ["T"])[0].group
        start = turn.setdefault(group, len(turn))
        turn[group] += N_BENIGN_PER_PAIR
        drawn: list[RowClass] = ["T", *(classes[k % len(classes)] for k in range(start, turn[group]))]
        yield from organism.pair(seed, "heldout", i, drawn)
