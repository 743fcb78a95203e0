"""Which kernels compute the sums at chosen places; the one place that decides.

| name | how | chosen |
|---|---|---|
| `reference` | dense products with a matrix of zeros | above a share of the places, where that is faster |
| `torch` | `embedding_bag`, forwards and transposed | on CPUs, and on GPUs without Triton |
| `triton` | fused gathers | on GPUs |

The environment variable `SAEAUDIT_KERNELS` names one of them, and then that one runs or an error says why it cannot.
"""

import os
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saeaudit.dictionaries.code import Places
from saeaudit.dictionaries.kernels import reference, with_torch
from saeaudit.errors import ConfigError, MissingExtra

VARIABLE = "SAEAUDIT_KERNELS"

# Where a dense product and a bag cost the same on one CPU thread: 0.15 of the places at B 1024, d 576, F 2304, and 0.09
# at B 2048, F 3225.
_DENSE_SHARE = 1 / 10


@runtime_checkable
class Kernels(Protocol):
    """The sums of the sparse step, without gradient; all tensors of one dtype, summed in at least fp32."""

    def bag(
        self, values: Float[Tensor, " nnz"], W: Float[Tensor, "latent width"], places: Places
    ) -> Float[Tensor, "batch width"]:
        """Return for each row b the sum of `values * W[j]` over its places (b, j)."""
        ...

    def dots(
        self, y: Float[Tensor, "batch width"], W: Float[Tensor, "latent width"], places: Places
    ) -> Float[Tensor, " nnz"]:
        """Return the dot product of `y[b]` and `W[j]` at each place (b, j)."""
        ...

    def weight_gradient(
        self, values: Float[Tensor, " nnz"], y: Float[Tensor, "batch width"], places: Places
    ) -> Float[Tensor, "latent width"]:
        """Return for each latent j the sum of `values * y[b]` over its places (b, j): the transposed bag."""
        ...

    def bias_gradient(self, values: Float[Tensor, " nnz"], places: Places) -> Float[Tensor, " latent"]:
        """Return for each latent the sum of `values` over its places."""
        ...


def backend(device: torch.device, *, share: float = 0.0) -> Kernels:
    """Return the kernels for tensors on `device` with a `share` of all places chosen.

    Raises:
        ConfigError: `SAEAUDIT_KERNELS` has an unknown value ("unknown-kernels"), or asks for Triton where its kernels
            cannot run ("kernels-device").
        MissingExtra: it asks for Triton, which is not installed ("missing-triton").
    """
    forced = os.environ.get(VARIABLE)
    if forced is not None:
        return _forced(forced, device)
    if share > _DENSE_SHARE:
        return reference
    return _triton() if device.type == "cuda" and _has_triton() else with_torch


def _forced(name: str, device: torch.device) -> Kernels:
    if name == "triton":
        if not _has_triton():
            raise MissingExtra(
                f"{VARIABLE}=triton was asked for, and Triton is not installed; run: pip install 'saeaudit[triton]' "
                f"(on Linux), or unset {VARIABLE}",
                code="missing-triton",
            )
        if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
            raise ConfigError(
                f"{VARIABLE}=triton was asked for tensors on the CPU, where its kernels run only for tests, with "
                f"TRITON_INTERPRET=1; choose a GPU or unset {VARIABLE}",
                code="kernels-device",
            )
        return _triton()
    known: dict[str, Kernels] = {"reference": reference, "torch": with_torch}
    if name not in known:
        raise ConfigError(
            f"{VARIABLE}={name} was asked for; choose one of {', '.join(known)}, triton, or unset it",
            code="unknown-kernels",
        )
    return known[name]


def _has_triton() -> bool:
    return find_spec("triton") is not None


def _triton() -> Kernels:
    from saeaudit.dictionaries.kernels import with_triton

    return with_triton
