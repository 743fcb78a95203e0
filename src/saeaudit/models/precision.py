"""Which number format to compute in: bfloat16 only where the hardware multiplies it natively.

Without AVX512_BF16 or AMX a CPU emulates bfloat16 and is slower than with float32, so "auto" means float32 there.
"""

from functools import cache
from pathlib import Path
from typing import Literal

import torch

from saeaudit.errors import ConfigError, ModelError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_NATIVE_BF16 = {"avx512_bf16", "amx_bf16"}


def resolve_dtype(dtype: Dtype | torch.dtype = "auto", device: str | torch.device = "cpu") -> torch.dtype:
    """Return the torch dtype that `dtype` means on `device`.

    "auto" is bfloat16 on an accelerator and on CPUs with AVX512_BF16 or AMX, float32 elsewhere.

    Raises:
        ConfigError: `dtype` is none of the choices (code `unknown-dtype`).
    """
    if isinstance(dtype, torch.dtype) and dtype in _DTYPES.values():
        return dtype
    if dtype == "auto":
        accelerated = torch.device(device).type != "cpu" or cpu_has_bfloat16()
        return torch.bfloat16 if accelerated else torch.float32
    if dtype not in _DTYPES:
        raise ConfigError(
            f"dtype {dtype!r} was asked for; choose one of auto, {', '.join(_DTYPES)}", code="unknown-dtype"
        )
    return _DTYPES[str(dtype)]


def resolve_device(device: str | torch.device) -> torch.device:
    """Return `device` if it exists on this machine.

    Raises:
        ModelError: no such device (code `device-unavailable`), with those that there are; there is never a silent
            fallback to the CPU.
    """
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"device {str(device)!r} was asked for, but it cannot be used here: {reason}; {_advice()}",
            code="device-unavailable",
        ) from None
    return wanted


def _advice() -> str:
    """Return which devices there are instead."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    if gpus:
        return f"there are {', '.join(['cpu', *gpus])}: choose one of them"
    return "this torch finds no GPU: choose cpu, or install a driver and a build of torch for the accelerator"


@cache
def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the CPU multiplies bfloat16 natively; False where the system does not list its CPU flags."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return not _NATIVE_BF16.isdisjoint(flags.split())
