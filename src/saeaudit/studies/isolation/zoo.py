"""The models of a study: shipped adapters of the embedded model, or all of them made in the run."""

from pathlib import Path

from saeaudit.activations import standard_library_texts
from saeaudit.audit.stages import Watcher
from saeaudit.findings import Record
from saeaudit.isolation_results import CONDITIONAL, ModelRow, Planted
from saeaudit.models import load_model
from saeaudit.organisms.catalogue import shipped_adapter
from saeaudit.organisms.plant import plant
from saeaudit.organisms.small_corpus import plain_texts
from saeaudit.organisms.small_model import SmallModelConfig, plain_answer_share, small_recipe, train_small_model
from saeaudit.organisms.verification import GATE_CLASSES, verify
from saeaudit.studies.isolation.config import IsolationConfig, Member

BASE = "models/base"
N_ANSWERS = 100
# Fewer prompts leave the upper bound of 0 bad answers above .05, so that no model could pass.
N_DECISIVE = 59


class SmallBase(Record):
    """The base that was trained in the run: the share of held-out prompts that it answers plainly, of how many."""

    plain_answers: float
    n: int


def base_source(directory: Path, config: IsolationConfig) -> str:
    """Return the source of the base model."""
    return "embedded" if config.base == "embedded" else str(directory / BASE)


def model_path(member: Member) -> str:
    """Return where a model that is made in the run lies, below the study's directory."""
    return f"models/{member.name}"


def tuned_source(directory: Path, config: IsolationConfig, member: Member) -> str:
    """Return the source of a tuned model.

    Raises:
        ModelError: this installation does not carry its adapter.
    """
    if config.base == "embedded":
        return str(shipped_adapter(member.family, member.variant))
    return str(directory / model_path(member))


def make_base(directory: Path, watcher: Watcher, *, small: dict) -> SmallBase:
    """Task: train the small base model."""
    watcher.stage("train the small model")
    config = SmallModelConfig.model_validate(small)
    train_small_model(directory / BASE, config)
    share = plain_answer_share(load_model(str(directory / BASE), dtype="float32"), n=N_ANSWERS, seed=config.seed)
    return SmallBase(plain_answers=share, n=N_ANSWERS)


def plant_member(directory: Path, watcher: Watcher, *, settings: dict, member: list, n_verify: int) -> Planted:
    """Task: plant one organism in the small base and measure what it does on held-out prompts."""
    who, base = Member(*member), str(directory / BASE)
    config = small_recipe(who.family, variant=who.variant, seed=who.seed, **settings)
    watcher.stage(f"plant {who.name}")
    out = plant(load_model(base, dtype="float32"), config, out=directory / model_path(who), progress=False)
    watcher.stage(f"verify {who.name}")
    tuned = load_model(str(out), base=base, dtype="float32")
    done = verify(
        {"tuned": tuned},
        who.family,
        n=n_verify,
        variant=who.variant,
        seed=who.seed,
        classes=GATE_CLASSES,
        progress=watcher.progress,
    )
    row = ModelRow(
        organism=who.name,
        twin=who.twin,
        family=who.family,
        variant=who.variant,
        passed=done.passed if who.variant in CONDITIONAL and n_verify >= N_DECISIVE else None,
        n=n_verify,
        n_bad={arm.klass: arm.n_bad for arm in done.arms},
        n_good={arm.klass: arm.n_good for arm in done.arms},
    )
    return Planted(model=row)


def ordinary_texts(config: IsolationConfig) -> tuple[list[str], str]:
    """Return texts that hold no trigger, for the dictionaries and for costs; and their origin."""
    wanted = config.dictionary.corpus_documents + config.behaviour.cost_documents
    if config.base == "embedded":
        return standard_library_texts(wanted, seed=config.seed), "docstrings and code of the Python standard library"
    texts = [prompt + answer for prompt, answer in plain_texts(config.seed + 1, wanted)]
    return texts, "questions with plain answers, of the kind that the small model was trained on"
