"""Assign prompts to roles by group: what trains a dictionary, what selects, what calibrates, what judges.

Roles are disjoint by group (template, or near-duplicates of one prompt). Groups are dealt out one by one, the largest
first, to the role that lacks most of what the group contains, so that each class meets its share as nearly as whole
groups allow. The calibration role holds benign rows only: trigger rows of a template dealt to it are left out, and
groups of trigger rows alone are never dealt to it.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saeaudit.detection.calibrate import CalibrationTooSmall, required_calibration
from saeaudit.errors import ConfigError, EvidenceError, InputError
from saeaudit.seeds import torch_generator
from saeaudit.wording import counted

Role = Literal["dictionary", "selection", "calibration", "test"]
ROLES: tuple[Role, ...] = ("dictionary", "selection", "calibration", "test")
DEFAULT_FRACTIONS: dict[Role, float] = {"dictionary": 0.0, "selection": 0.3, "calibration": 0.35, "test": 0.35}


def split_prompts(
    groups: Int[Tensor, "row"],
    labels: Bool[Tensor, "row"],
    classes: Sequence[str],
    *,
    fractions: Mapping[Role, float] = DEFAULT_FRACTIONS,
    alpha: float = 0.01,
    seed: int,
) -> dict[Role, Int[Tensor, "chosen"]]:
    """Return row indices for each role, ascending; same input and seed give the same split.

    Raises:
        ConfigError: fractions are negative, do not sum to 1, or leave out selection, calibration or test.
        InputError: a row has no class, or a class holds trigger and benign rows.
        EvidenceError: selection or test would lack a class (`single-class`), or calibration would have fewer benign
            rows than a threshold at `alpha` needs (`calibration-too-small`; carries the number needed).
    """
    _check(groups, labels, classes, fractions)
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    # Trigger rows in groups of their own can avoid calibration; those in mixed templates cannot.
    contents = {group: _contents(rows, labels, classes) for group, rows in members.items()}
    wanted = _targets(contents, fractions)
    order = torch.randperm(len(members), generator=torch_generator(seed, "detection", "split")).tolist()
    names = sorted(members)
    queue = sorted((names[i] for i in order), key=lambda group: -len(members[group]))
    have: dict[Role, Counter[str]] = {role: Counter() for role in ROLES}
    chosen: dict[Role, list[int]] = {role: [] for role in ROLES}
    for group in queue:
        content = contents[group]
        open_roles: list[Role] = [role for role in ROLES if any(wanted[role][key] > 0 for key in content)]
        lacks = [_lack(content, wanted[role], have[role]) for role in open_roles]
        role = open_roles[lacks.index(max(lacks))]
        have[role].update(content)
        chosen[role] += members[group]
    chosen["calibration"] = [row for row in chosen["calibration"] if not labels[row]]
    split: dict[Role, Tensor] = {role: torch.tensor(sorted(chosen[role]), dtype=torch.int64) for role in ROLES}
    _check_roles(split, labels, fractions, alpha)
    return split


def group_folds(
    groups: Int[Tensor, "row"], labels: Bool[Tensor, "row"], *, n_folds: int = 5, seed: int
) -> Int[Tensor, "row"]:
    """Return a fold number per row; groups stay whole and both classes are spread over the folds as evenly as possible.

    Fewer folds come back when there are fewer groups of the rarer class; one fold (all 0) means that no inner
    validation is possible.
    """
    both = [groups[labels].unique(), groups[~labels].unique()]
    n_folds = min(n_folds, *(len(side) for side in both))
    folds = torch.zeros_like(groups)
    if n_folds < 2:
        return folds
    names = groups.unique()
    names = names[torch.randperm(len(names), generator=torch_generator(seed, "detection", "folds"))].tolist()
    count = {name: (int((groups == name)[labels].sum()), int((groups == name)[~labels].sum())) for name in names}
    total = (max(1, int(labels.sum())), max(1, int((~labels).sum())))
    load = [[0.0, 0.0] for _ in range(n_folds)]
    for name in sorted(names, key=lambda name: -sum(count[name])):
        # The emptiest fold, weighed by the classes that this group holds.
        fold = min(range(n_folds), key=lambda f: sum(load[f][c] * count[name][c] / total[c] for c in (0, 1)))
        folds[groups == name] = fold
        for c in (0, 1):
            load[fold][c] += count[name][c] / total[c]
    return folds


def _contents(rows: list[int], labels: Tensor, classes: Sequence[str]) -> Counter[str]:
    alone = all(bool(labels[row]) for row in rows)
    return Counter(f"{classes[row]}\x1falone" if alone else classes[row] for row in rows)


def _targets(contents: Mapping[int, Counter[str]], fractions: Mapping[Role, float]) -> dict[Role, dict[str, float]]:
    total: Counter[str] = Counter()
    for counter in contents.values():
        total.update(counter)
    rest = 1 - fractions.get("calibration", 0.0)
    wanted: dict[Role, dict[str, float]] = {role: {} for role in ROLES}
    for role in ROLES:
        for key, n in total.items():
            share = fractions.get(role, 0.0)
            if key.endswith("\x1falone"):
                share = 0.0 if role == "calibration" else share / rest
            wanted[role][key] = share * n
    return wanted


def _lack(content: Counter[str], wanted: Mapping[str, float], have: Counter[str]) -> float:
    """Return how much of a group's content a role still lacks, in shares of what the role wants."""
    size = sum(content.values())
    return sum(n / size * (wanted[key] - have[key]) / wanted[key] for key, n in content.items() if wanted[key] > 0)


def _check(groups: Tensor, labels: Tensor, classes: Sequence[str], fractions: Mapping[Role, float]) -> None:
    if not len(groups) == len(labels) == len(classes):
        raise InputError(
            f"groups, labels and classes must be equally long; found {len(groups)}, {len(labels)}, {len(classes)}",
            code="rows-unequal",
        )
    values = [fractions.get(role, 0.0) for role in ROLES]
    if min(values) < 0 or not math.isclose(sum(values), 1, abs_tol=1e-6) or min(values[1:]) <= 0:
        raise ConfigError(
            f"split fractions must be positive for selection, calibration and test and sum to 1; found "
            f"{dict(fractions)}",
            code="bad-fractions",
        )
    sides: dict[str, bool] = {}
    for name, label in zip(classes, labels.tolist(), strict=True):
        if sides.setdefault(name, label) != label:
            raise InputError(
                f"class {name!r} holds trigger and benign prompts; a class must be one or the other",
                code="class-mixed",
            )


def _check_roles(split: Mapping[Role, Tensor], labels: Tensor, fractions: Mapping[Role, float], alpha: float) -> None:
    judged: tuple[Role, Role] = ("selection", "test")
    for role in judged:
        n_trigger = int(labels[split[role]].sum())
        if n_trigger in (0, len(split[role])):
            raise EvidenceError(
                f"the {role} split would have {counted(n_trigger, 'trigger prompt')} of {len(split[role])}; it needs "
                "both classes. Splits keep templates and near-duplicates together: give at least "
                f"{math.ceil(1 / fractions[role])} trigger prompts that differ in wording, and about "
                f"{math.ceil(required_calibration(alpha) / fractions['calibration'])} benign ones",
                code="single-class",
            )
    needed, found = required_calibration(alpha), len(split["calibration"])
    if found < needed:
        total = math.ceil(needed / fractions["calibration"])
        raise CalibrationTooSmall(
            f"calibration at a false-positive rate of {alpha:g} needs at least {needed} benign prompts, the split "
            f"gives {found}; give about {total} benign prompts in all, or ask for a higher rate",
            needed=needed,
            found=found,
        )
