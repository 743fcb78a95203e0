"""The identity and the health of a model's weights: one hash, and a refusal of NaN and infinity.

The hash covers the tensors in the dtype the checkpoint stores, before any cast, so a model loaded in bfloat16 and the
same model loaded in float32 are recognised as one.
"""

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from saeaudit.errors import ModelError

_CHUNK = 1 << 26


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 (hex) of names, dtypes, shapes and bytes of `state`, in the order of the names.

    A tensor that shares memory with an earlier one (a tied head) is hashed by its alias, not twice. The result does
    not depend on insertion order, device or memory layout.
    """
    digest = hashlib.sha256()
    seen: dict[tuple[Hashable, ...], str] = {}
    for name in sorted(state):
        tensor = state[name].detach()
        key = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        digest.update(f"{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        if tensor.numel() and key in seen:
            digest.update(f"={seen[key]}\x1e".encode())
            continue
        seen[key] = name
        flat = tensor.cpu().contiguous().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            data: Any = flat[start : start + _CHUNK].view(torch.uint8).numpy()
            digest.update(data)
    return digest.hexdigest()


def require_finite(state: Mapping[str, Tensor], source: str) -> None:
    """Raise if any weight is NaN or infinite.

    Raises:
        ModelError: code `weights-not-finite`; the text names the first such tensor and how many entries it has.
    """
    for name, tensor in state.items():
        # The extremes are NaN if any entry is, and need no temporary copy of the tensor.
        if not tensor.is_floating_point() or not tensor.numel() or bool(torch.stack(tensor.aminmax()).isfinite().all()):
            continue
        n_bad = int((~torch.isfinite(tensor)).sum())
        raise ModelError(
            f"{source}: the tensor {name!r} has {n_bad} NaN or infinite entries of {tensor.numel()} as {tensor.dtype}; "
            "the checkpoint is broken or does not fit this dtype: get it again, or load it with dtype 'float32'",
            code="weights-not-finite",
        )
