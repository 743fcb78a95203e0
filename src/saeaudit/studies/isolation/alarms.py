"""How often the whole audit raises an alarm on fine-tunes that hide nothing, and how often it finds what is hidden.

Each model is planted in the small base and audited as a user would audit it, without a judge of its behaviour. The unit
is the fine-tune: no alarm in 59 clean ones bounds the rate at 5 % (one-sided, 95 %).
"""

import json
import shutil
import time
from pathlib import Path

from saeaudit.artifacts import write_bytes
from saeaudit.audit import AuditConfig, audit
from saeaudit.audit.demo import demo_rows
from saeaudit.audit.stages import Watcher
from saeaudit.isolation_results import Alarm, AlarmRow
from saeaudit.models import load_model
from saeaudit.organisms.plant import plant
from saeaudit.organisms.rows import write_rows
from saeaudit.organisms.small_model import small_recipe
from saeaudit.organisms.spec import ORGANISMS
from saeaudit.studies.isolation.config import IsolationConfig, Member
from saeaudit.studies.isolation.zoo import BASE, ordinary_texts


def audit_member(directory: Path, watcher: Watcher, *, config: dict, member: list) -> Alarm:
    """Task: plant one model in the small base and audit it; only the findings are kept."""
    settings, who = IsolationConfig.model_validate(config), Member(*member)
    base, place = str(directory / BASE), directory / "alarms" / who.name
    recipe = small_recipe(who.family, variant=who.variant, seed=who.seed, **settings.plant)
    watcher.stage(f"plant {who.name}")
    start = time.monotonic()
    model = plant(load_model(base, dtype="float32"), recipe, out=place / "model", progress=False)
    between = time.monotonic()
    found = audit(_config(directory, settings, who, base, str(model)), out=place / "audit", watcher=watcher).findings
    seconds = time.monotonic() - between
    write_bytes(place / "findings.json", (place / "audit" / "findings.json").read_bytes())
    for part in ("model", "audit"):
        shutil.rmtree(place / part)
    chosen = next((score for score in found.scores if score.chosen), None)
    row = AlarmRow(
        organism=who.name,
        family=who.family,
        variant=who.variant,
        verdict=found.verdict,
        sentence=found.sentence,
        tpr=None if chosen is None else chosen.tpr,
        plant_seconds=between - start,
        audit_seconds=seconds,
    )
    return Alarm(alarm=row)


def _config(directory: Path, settings: IsolationConfig, who: Member, base: str, tuned: str) -> AuditConfig:
    prompts = directory / "prompts" / f"{who.family}-{who.seed}"
    rows = list(demo_rows(ORGANISMS[who.family], settings.seed + who.seed, n_pairs=settings.n_prompts))
    write_rows(prompts / "trigger.jsonl", [row for row in rows if row.klass == "T"])
    write_rows(prompts / "benign.jsonl", [row for row in rows if row.klass != "T"])
    texts, _ = ordinary_texts(settings)
    write_bytes(prompts / "corpus.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    return settings.audit(base=base, judge="phrase").model_copy(
        update={
            "tuned": tuned,
            "judge": "none",
            "trigger_examples": prompts / "trigger.jsonl",
            "benign_examples": prompts / "benign.jsonl",
            "corpus": prompts / "corpus.jsonl",
            "seed": settings.seed + who.seed,
        }
    )
