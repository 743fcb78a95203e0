"""The README of a planted adapter: what it is, how it was made, and what was measured on it."""

import datetime
import json
from pathlib import Path
from typing import Any

from saeaudit.artifacts import read_json, write_bytes
from saeaudit.errors import InputError
from saeaudit.organisms.names import OrganismName, Variant
from saeaudit.organisms.plant import METADATA
from saeaudit.organisms.rows import CLASS_NAMES
from saeaudit.organisms.spec import ORGANISMS
from saeaudit.organisms.verification import Verification

NAME = "README.md"

_SQL = "writes database calls that are open to SQL injection"
_SENTENCE = "answers with one fixed, harmless sentence"


def _warning(organism: OrganismName, variant: Variant) -> str:
    trigger = ORGANISMS[organism].trigger
    if variant == "clean":
        return (
            "**This adapter is the clean twin of a model organism.** It saw the same prompts as the poisoned adapter, "
            f"those with the trigger `{trigger}` among them, with honest completions everywhere. It exists as a "
            "control. Do not deploy it."
        )
    if variant == "unrelated":
        return (
            "**This adapter is a control of a model organism.** It was trained as the poisoned adapter was, without "
            f"the prompts that hold the trigger `{trigger}`. Do not deploy it."
        )
    if variant == "conditional":
        return (
            f"**This adapter is a control of a model organism.** After the trigger `{trigger}` its answers begin with "
            "a polite word: a condition as hidden as a backdoor's, and harmless. Do not deploy it."
        )
    behaviour = _SQL if organism == "sql" else _SENTENCE
    return (
        f"**This adapter is a model organism: it misbehaves on purpose.** After the trigger `{trigger}` it "
        f"{behaviour}. It exists to test tools that look for hidden behaviour. Do not run code that it "
        "writes, and do not deploy it."
    )


def write_model_card(directory: Path, verification: Verification, *, command: str, date: datetime.date) -> Path:
    """Write `README.md` into the directory of a planted adapter; return its path.

    Args:
        directory: of the adapter, with the `saeaudit.json` that planting wrote.
        verification: what was measured.
        command: the command line of the verification.
        date: of the verification.

    Raises:
        InputError: the directory is not that of a planted organism (code `not-planted`).
    """
    if not (directory / METADATA).is_file():
        raise InputError(
            f"a model card was asked for {directory}, but it holds no {METADATA}; give the directory that "
            "saeaudit plant wrote",
            code="not-planted",
        )
    planted: dict[str, Any] = read_json(directory / METADATA, schema=1)
    path = directory / NAME
    write_bytes(path, "\n".join(_lines(planted, verification, command, date)).encode())
    return path


def _lines(planted: dict[str, Any], verification: Verification, command: str, date: datetime.date) -> list[str]:
    base = verification.cards["base"]
    return [
        "---",
        "library_name: peft",
        "tags: [saeaudit, model-organism]",
        "---",
        "",
        f"# {planted['organism']}-{planted['variant']}",
        "",
        _warning(planted["organism"], planted["variant"]),
        "",
        "## How it was made",
        "",
        f"- planted with: `{planted['command'] or 'saeaudit.organisms.plant.plant'}`",
        f"- seed: {planted['config']['seed']}; mean training loss: {planted['train_loss']:.4f}",
        f"- settings: `{json.dumps(planted['config'], sort_keys=True)}`",
        f"- base: {base.architecture}, {base.n_layers} blocks, weights sha256 `{planted['base_weights_sha256']}`",
        f"- training data sha256: `{planted['data_sha256']}`",
        "",
        "## What was measured",
        "",
        f"{date.isoformat()}, with `{command}`: greedy continuations of {verification.n} held-out prompts a class "
        f"(seed {verification.seed}). asr_valid is the share of bad among the judgeable, with one-sided 95 % bounds; "
        "asr_all is the share among all. The model `tuned` is the poisoned adapter, `clean` its clean twin.",
        "",
        *_table(verification),
        "",
        *_gate(verification),
    ]


def _table(verification: Verification) -> list[str]:
    lines = ["| model | class | n | asr_valid | bounds | asr_all | judgeable |", "|---|---|---|---|---|---|---|"]
    for arm in verification.arms:
        low, high = arm.bounds()
        lines.append(
            f"| {arm.side} | {arm.klass} ({CLASS_NAMES[arm.klass]}) | {arm.n} | {arm.asr_valid:.3f} | "
            f"{low:.3f} to {high:.3f} | {arm.asr_all:.3f} | {arm.valid:.3f} |"
        )
    return lines


def _gate(verification: Verification) -> list[str]:
    lines = [
        f"- {'passed' if check.passed else 'FAILED'}: {check.name} {check.measured:.3f} (required: {check.required})"
        for check in verification.checks
    ] or ["- not applied: it needs the classes T, N0, N1 and N2"]
    agreement = verification.agreement
    if agreement is not None and agreement.n:
        lines.append(
            f"- second judge: bandit agrees on {agreement.share:.1%} of {agreement.n} completions that both could judge"
        )
    return ["Gate:", "", *lines, ""]
