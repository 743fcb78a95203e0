"""Watch a run from outside; a callback cannot change its numbers."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Callback(Protocol):
    """Three moments of a run. Every mapping is plain: names to floats.

    `on_start` gets n_steps, first_step, n_latents. `on_log` and `on_end` get step, n_tokens, loss and loss/<term>, fvu,
    l0, dead_share, lr, grad_norm, seconds, tokens_per_second; all but the counts are means since the last log.
    """

    def on_start(self, info: Mapping[str, float]) -> None: ...

    def on_log(self, metrics: Mapping[str, float]) -> None: ...

    def on_end(self, metrics: Mapping[str, float]) -> None: ...
