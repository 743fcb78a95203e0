"""Task: every baseline of one organism and layer, and random directions as many as a dictionary has latents."""

import time
from pathlib import Path

import torch

from saeaudit.audit.stages import Watcher
from saeaudit.detection import BASELINES, fit_random_directions
from saeaudit.isolation_results import Cells
from saeaudit.seeds import torch_generator
from saeaudit.studies.isolation.arena import Arena
from saeaudit.studies.isolation.config import IsolationConfig, Member

RANDOM = "random directions"


def baseline_cells(directory: Path, watcher: Watcher, *, config: dict, member: list, layer: str) -> Cells:
    """Judge all baselines; their null is that of a dictionary whose latents all fire equally often."""
    settings, who = IsolationConfig.model_validate(config), Member(*member)
    watcher.stage(f"baselines {who.name} {layer}")
    arena = Arena.open(directory, settings, who, layer)
    n_latents = settings.dictionary.expansion * arena.test.delta.shape[1]
    rates = torch.full((n_latents,), settings.dictionary.k / n_latents)
    null, cells = arena.null(rates), []
    for k, name in enumerate((*BASELINES, RANDOM)):
        since, seed = time.monotonic(), arena.seed("fit", name)
        if name == RANDOM:
            scorer = fit_random_directions(
                arena.selection,
                firing_rates=rates,
                sizes=settings.detection.latent_counts,
                generator=torch_generator(seed, name),
                seed=seed,
            )
        else:
            scorer = BASELINES[name](arena.selection, seed=seed)
        cells.append(arena.judge(scorer, null, method=name, since=since))
        watcher.progress(k + 1, len(BASELINES) + 1)
    return Cells(cells=cells)
