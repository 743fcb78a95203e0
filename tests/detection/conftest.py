"""Rows with a known answer: templates as groups, and a planted direction that only trigger rows have."""

import pytest
import torch

from saeaudit.detection import PairedRows, plant_direction


def _make_rows(
    n_groups: int = 60, per_group: int = 6, d_model: int = 24, *, strength: float = 0.0, seed: int = 0, scale=1.0
) -> PairedRows:
    """Half of each template's rows are trigger rows; `strength` plants the direction of seed 99, always the same."""
    generator = torch.Generator().manual_seed(seed)
    n = n_groups * per_group
    label = torch.arange(n) % 2 == 0
    group = torch.arange(n) // per_group
    words = ["amber", "basalt", "cedar", "dune", "ember", "fjord", "grove", "heath"]
    rows = PairedRows(
        h0=torch.randn(n, d_model, generator=generator) * 3,
        delta=torch.randn(n, d_model, generator=generator) * scale,
        text=[f"{words[g % 8]} {words[g // 8 % 8]} number {i // 2}" for i, g in enumerate(group.tolist())],
        label=label,
        klass=["trigger" if t else ("near" if i % 3 else "far") for i, t in enumerate(label.tolist())],
        group=group,
    )
    return plant_direction(rows, strength=strength, seed=99) if strength else rows


@pytest.fixture
def make_rows():
    return _make_rows


@pytest.fixture
def make_three(make_rows):
    """Selection, benign calibration and test rows with disjoint groups."""

    def make(strength: float = 0.0, scale: float = 1.0):
        selection = make_rows(60, strength=strength, seed=1, scale=scale)
        calibration = make_rows(70, strength=strength, seed=2, scale=scale).benign()
        test = make_rows(60, strength=strength, seed=3, scale=scale)
        return selection, calibration, test

    return make
