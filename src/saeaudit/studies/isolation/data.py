"""The prompts of a family with their roles, and the activations of its models on them."""

from functools import lru_cache
from pathlib import Path

from saeaudit.activations import HarvestConfig, harvest
from saeaudit.audit.data import AuditData, arrange
from saeaudit.audit.demo import demo_rows
from saeaudit.audit.prompts import Prompt
from saeaudit.audit.stages import Watcher
from saeaudit.audit.workbench import open_workbench
from saeaudit.findings import Record
from saeaudit.models import load_model
from saeaudit.organisms.spec import ORGANISMS, Organism, OrganismName
from saeaudit.studies.isolation.config import IsolationConfig
from saeaudit.studies.isolation.zoo import base_source, ordinary_texts, tuned_source


class Harvested(Record):
    """What was harvested: models by name, sites, rows, and the precision it ran in."""

    models: list[str]
    sites: list[str]
    n_rows: int
    precision: str


def prompts_of(organism: Organism, config: IsolationConfig) -> tuple[Prompt, ...]:
    """Return the held-out prompts of an organism: trigger prompts first, then the benign ones matched to them."""
    rows = sorted(demo_rows(organism, config.seed, n_pairs=config.n_prompts), key=lambda row: row.klass != "T")
    return tuple(
        Prompt(row.row_id, row.prompt, row.klass == "T", row.group, row.klass, row.trigger_span) for row in rows
    )


def study_data(directory: Path, config: IsolationConfig, family: OrganismName) -> AuditData:
    """Return prompts, roles and tokens of a family; the same in every process."""
    return _study_data(directory, config.model_dump_json(), family)


@lru_cache(maxsize=2)  # the tasks of a family follow each other, and all read it
def _study_data(directory: Path, settings: str, family: OrganismName) -> AuditData:
    config = IsolationConfig.model_validate_json(settings)
    source = base_source(directory, config)
    organism = ORGANISMS[family]
    audit = config.audit(base=source, judge=organism.name)
    texts = ordinary_texts(config)
    return arrange(prompts_of(organism, config), *texts, audit, load_model(source, dtype="float32"))


def activations_path(family: OrganismName, model_seed: int) -> str:
    """Return where the activations of a family's models lie, below the study's directory."""
    return f"activations/{family}-s{model_seed}"


def harvest_models(
    directory: Path, watcher: Watcher, *, config: dict, family: OrganismName, model_seed: int
) -> Harvested:
    """Task: run the base and the models of one family and seed over its prompts and the corpus."""
    settings = IsolationConfig.model_validate(config)
    members = settings.members(family, model_seed)
    place = directory / activations_path(family, model_seed)
    tuned = {member.name: tuned_source(directory, settings, member) for member in members}
    audit = settings.audit(base=base_source(directory, settings), judge=ORGANISMS[family].name)
    bench = open_workbench(audit, tuned, place.parent / f"{place.name}-precision", watcher)
    data = study_data(directory, settings, family)
    watcher.stage(f"harvest {family}-s{model_seed}")
    store = harvest(bench.models, data.documents, bench.sites, HarvestConfig(), out=place, progress=watcher.progress)
    return Harvested(models=list(tuned), sites=bench.sites, n_rows=store.n_rows, precision=bench.precision)
