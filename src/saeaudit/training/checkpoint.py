"""The whole state of a run on disk: weights, moments, counters, cursor. Safetensors and JSON, never pickle.

On a CPU with equal threads and torch build, N steps equal N/2 steps, a checkpoint, a fresh process and N/2 steps, bit
for bit.
"""

import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saeaudit.artifacts import atomic_directory, read_json, write_json
from saeaudit.dictionaries import Dictionary
from saeaudit.distributed import WHOLE, Grid
from saeaudit.errors import ArtifactError
from saeaudit.training.config import CheckpointConfig, TrainConfig
from saeaudit.training.early_stop import Patience
from saeaudit.training.state import RunState

_SCHEMA = 3
_NAME = re.compile(r"step-(\d{9})")
_STATE, _TENSORS = "state.json", "tensors.safetensors"


def settings_of(dictionary: Dictionary, config: TrainConfig) -> dict[str, Any]:
    """Return all settings that must be equal for a run to continue."""
    return {
        **{f"dictionary.{name}": value for name, value in dictionary.config.model_dump(mode="json").items()},
        **{f"train.{name}": value for name, value in config.model_dump(mode="json").items()},
        "shape": list(dictionary.coder.W_enc.shape),
    }


def save_checkpoint(
    dictionary: Dictionary, optimiser: torch.optim.Optimizer, state: RunState, config: TrainConfig, to: CheckpointConfig
) -> Path:
    """Write a checkpoint atomically, remove all but the newest `to.keep`, and return its path."""
    path = to.directory / f"step-{state.step:09d}"
    tensors = {f"weight.{name}": tensor for name, tensor in dictionary.coder.state_dict().items()}
    for name, parameter in dictionary.coder.named_parameters():
        tensors |= {f"optimiser.{name}.{key}": value for key, value in optimiser.state[parameter].items()}
    tensors["last_fired"] = state.firing.last_fired
    with atomic_directory(path) as staging:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, staging / _TENSORS
        )
        write_json(
            staging / _STATE,
            {
                "schema": _SCHEMA,
                "settings": settings_of(dictionary, config),
                "step": state.step,
                "n_rows": state.firing.n_rows,
                "seconds": state.seconds,
                "sums": state.read_sums(),
                "metrics": state.metrics,
                "ends_at": state.ends_at,
                "patience": asdict(state.patience),
            },
        )
    for _, old in _checkpoints(to.directory)[: -to.keep]:
        shutil.rmtree(old)
    return path


def open_checkpoints(
    dictionary: Dictionary,
    optimiser: torch.optim.Optimizer,
    state: RunState,
    config: TrainConfig,
    source: CheckpointConfig,
    *,
    resume: bool,
    grid: Grid = WHOLE,
) -> Path | None:
    """Continue in place from the newest checkpoint that all ranks have, if there is one, and return its path.

    Without `resume`, checkpoints of an earlier run are deleted, so that the new run's are the newest.

    Raises:
        ArtifactError: it was written with other settings ("resume-mismatch", the fields are named) or is broken.
    """
    found = _checkpoints(source.directory)
    if not resume:
        for _, old in found if grid.rows.leads else []:
            shutil.rmtree(old)
        return None
    everywhere = set.intersection(*(set(steps) for steps in grid.world.gather_json([step for step, _ in found])))
    found = [(step, path) for step, path in found if step in everywhere]
    if not found:
        return None
    path = found[-1][1]
    stored = read_json(path / _STATE, schema=_SCHEMA)
    _same_settings(stored["settings"], settings_of(dictionary, config), path)
    try:
        tensors = load_file(path / _TENSORS)
        dictionary.coder.load_state_dict(_below(tensors, "weight."))
        for name, parameter in dictionary.coder.named_parameters():
            moments = _below(tensors, f"optimiser.{name}.")
            optimiser.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}
        state.firing.last_fired.copy_(tensors["last_fired"])
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ArtifactError(
            f"{path} is broken ({error}); delete that directory to continue from the one before it",
            code="artifact-broken",
        ) from None
    state.firing.n_rows, state.step, state.seconds = stored["n_rows"], stored["step"], stored["seconds"]
    state.sums = {name: torch.tensor(total, dtype=torch.float64) for name, total in stored["sums"].items()}
    state.metrics = stored["metrics"]
    state.ends_at, state.patience = stored["ends_at"], Patience(**stored["patience"])
    return path


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _checkpoints(directory: Path) -> list[tuple[int, Path]]:
    if not directory.is_dir():
        return []
    names = ((_NAME.fullmatch(path.name), path) for path in directory.iterdir())
    return sorted((int(match.group(1)), path) for match, path in names if match)


def _same_settings(stored: dict[str, Any], asked: dict[str, Any], path: Path) -> None:
    differing = [key for key in sorted(stored.keys() | asked.keys()) if stored.get(key) != asked.get(key)]
    if differing:
        lines = ", ".join(f"{key}: {stored.get(key)} then, {asked.get(key)} now" for key in differing)
        raise ArtifactError(
            f"{path} belongs to a run with other settings ({lines}); use those settings, or another directory, or "
            "resume=False to start again",
            code="resume-mismatch",
        )
