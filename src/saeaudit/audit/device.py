"""The device that this process computes on."""

import re

import torch

from saeaudit.distributed import launched_local_rank, launched_size
from saeaudit.errors import ConfigError, ModelError
from saeaudit.models.precision import resolve_device

_DEVICES = r"cpu|cuda(:\d+)?"


def own_device(asked: str) -> torch.device:
    """Return the device that `asked` means in this process: "cpu", "cuda" or "cuda:N".

    Of several processes that torchrun started, each takes the GPU with its number on the machine.

    Raises:
        ModelError: it is none of these, or there is no such device here (code `device-unavailable`).
        ConfigError: several processes were given one GPU (code `device-shared`).
    """
    if not re.fullmatch(_DEVICES, asked):
        raise ModelError(f"device {asked!r} was asked for; choose cpu, cuda or cuda:N", code="device-unavailable")
    if launched_size() > 1 and asked != "cpu":
        if asked != "cuda":
            raise ConfigError(
                f"{launched_size()} processes were given the one device {asked!r}; give cuda, and each takes the GPU "
                "with its own number",
                code="device-shared",
            )
        asked = f"cuda:{launched_local_rank()}"
    return resolve_device(asked)
