"""Run an isolation study: models, activations, then a cell for every organism, layer and method."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from saeaudit import __version__
from saeaudit.artifacts import directory_lock
from saeaudit.audit.stages import Silent, Watcher
from saeaudit.causal_results import CausalRows
from saeaudit.isolation_results import CONDITIONAL, Alarm, Cells, IsolationResults, Planted, save_results
from saeaudit.organisms.names import OrganismName
from saeaudit.paper_results import Faults, PaperRows
from saeaudit.studies.isolation.alarms import audit_member
from saeaudit.studies.isolation.baselines import baseline_cells
from saeaudit.studies.isolation.causal.tasks import causal_directions, causal_rows
from saeaudit.studies.isolation.config import DIRECTIONS, IsolationConfig, Member
from saeaudit.studies.isolation.data import Harvested, activations_path, harvest_models
from saeaudit.studies.isolation.dictionaries import dictionary_cell, dictionary_path
from saeaudit.studies.isolation.output import claim, require_own
from saeaudit.studies.isolation.paper.tasks import paper_tasks
from saeaudit.studies.isolation.zoo import BASE, SmallBase, make_base, model_path, plant_member
from saeaudit.studies.tasks import Engine, Plan, Task, run_here

# What only says how many organisms and methods there are.
WIDTH = (
    "families",
    "model_seeds",
    "dictionaries",
    "causal",
    "alarms",
    "paper",
    "small",
    "plant",
    "n_verify",
    "is_evidence",
)


def plan_study(directory: Path, config: IsolationConfig) -> Plan:
    """Return the tasks of a study, in an order in which each follows what it reads."""
    tasks = []
    if config.base == "small":
        tasks.append(
            Task("base", make_base, {"small": config.small.model_dump()}, SmallBase, product=BASE, support=True)
        )
    for family in config.families:
        for seed in config.model_seeds:
            members = config.members(family, seed)
            models = _models(config, members) if config.base == "small" else []
            harvested = _harvest(config, family, seed, models)
            tasks += [*models, harvested]
            for member in members:
                tasks += _judged(config, member, harvested.name)
    if config.paper is not None:
        tasks += paper_tasks(config.paper)
    audited = {"config": _without(config, *WIDTH, "variants") | {"plant": config.plant}}
    for member in config.audited():
        which = audited | {"member": list(member)}
        tasks.append(Task(f"alarm-{member.name}", audit_member, which, Alarm, after=("base",)))
    return Plan(directory, tasks)


def _models(config: IsolationConfig, members: Sequence[Member]) -> list[Task]:
    shared = {"settings": config.plant, "n_verify": config.n_verify}
    return [
        Task(
            f"plant-{member.name}",
            plant_member,
            shared | {"member": list(member)},
            Planted,
            after=("base",),
            product=model_path(member),
        )
        for member in members
    ]


def _harvest(config: IsolationConfig, family: OrganismName, seed: int, models: Sequence[Task]) -> Task:
    return Task(
        f"harvest-{family}-s{seed}",
        harvest_models,
        {"config": _without(config, *WIDTH), "family": family, "model_seed": seed},
        Harvested,
        after=tuple(task.name for task in models),
        product=activations_path(family, seed),
        support=True,
    )


def _judged(config: IsolationConfig, member: Member, harvested: str) -> Iterator[Task]:
    for n in config.layers:
        shared = {"member": list(member), "layer": f"layers.{n}"}
        which = shared | {"config": _without(config, *WIDTH, "variants", "layers")}
        label = f"{member.name}-layers.{n}"
        yield Task(f"baselines-{label}", baseline_cells, which, Cells, (harvested,))
        for plan in config.plans:
            one, place = which | {"dictionary": plan.model_dump()}, dictionary_path(member, f"layers.{n}", plan)
            yield Task(f"{plan.name}-{label}", dictionary_cell, one, Cells, (harvested,), product=place)
        if member.variant in CONDITIONAL:
            yield from _edited(config, shared | {"config": _without(config, *WIDTH)}, label, harvested)


def _edited(config: IsolationConfig, which: dict[str, Any], label: str, harvested: str) -> Iterator[Task]:
    for plan in config.plans:
        if plan.name in config.causal:
            one, after = which | {"dictionary": plan.model_dump()}, (harvested, f"{plan.name}-{label}")
            yield Task(f"causal-{plan.name}-{label}", causal_rows, one, CausalRows, after)
    if DIRECTIONS in config.causal:
        yield Task(f"causal-{DIRECTIONS}-{label}", causal_directions, which, CausalRows, (harvested,))


def _without(config: IsolationConfig, *names: str) -> dict[str, Any]:
    """Return the settings that a task depends on; more organisms or methods do not make the others run again."""
    return config.model_dump(mode="json", exclude=set(names))


def run_study(
    config: IsolationConfig,
    *,
    out: Path,
    preset: str = "",
    command: str = "",
    engine: Engine = run_here,
    watcher: Watcher | None = None,
) -> IsolationResults:
    """Do what is missing of the study in `out` and write `results.json` with all cells that are there.

    Args:
        config: what is compared.
        out: directory of the study; the same call continues an unfinished one.
        preset: name of the size, for the record.
        command: the command line to record.
        engine: does the tasks, in this process or on a cluster.
        watcher: sees tasks and progress.

    Raises:
        ArtifactError: another process works in `out`, or it holds something else (see `require_own`).
    """
    require_own(out, config)  # a directory of other files is not touched, not even by a lock
    with directory_lock(out):
        claim(out, config)
        plan = plan_study(out, config)
        finished = engine(plan, watcher or Silent())
        records = [finished.records[name] for name in plan.tasks if name in finished.records]
        results = IsolationResults(
            preset=preset,
            is_evidence=config.is_evidence,
            command=command,
            config=config.model_dump(mode="json"),
            versions={"saeaudit": __version__, "python": platform.python_version(), "torch": torch.__version__},
            n_tasks=len(plan.tasks),
            n_done=len(finished.records),
            models=[r.model for r in records if isinstance(r, Planted)],
            alarms=[r.alarm for r in records if isinstance(r, Alarm)],
            cells=[cell for r in records if isinstance(r, Cells) for cell in r.cells],
            paper=[row for r in records if isinstance(r, PaperRows) for row in r.rows],
            faults=[r for r in records if isinstance(r, Faults)],
            causal=[r for r in records if isinstance(r, CausalRows)],
            failed=finished.failed,
            seconds=finished.seconds,
        )
        save_results(results, out)
    return results
