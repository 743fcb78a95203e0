"""Named, independent random streams derived from one seed.

A stream depends on the seed and on its own name only, so adding a control or a dictionary never changes the
numbers of another one. `hash()` is not used: it differs between processes.
"""

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream `names` of run `seed`.

    >>> derive(0, "init") == derive(0, "init"), derive(0, "init") == derive(1, "init")
    (True, False)
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def torch_generator(seed: int, *names: str | int) -> "torch.Generator":
    """Return a CPU `torch.Generator` for the stream `names`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> "np.random.Generator":
    """Return a numpy `Generator` (PCG64) for the stream `names`."""
    import numpy as np

    return np.random.default_rng(derive(seed, *names))


def python_random(seed: int, *names: str | int) -> random.Random:
    """Return a standard library `Random` for the stream `names`."""
    return random.Random(derive(seed, *names))
