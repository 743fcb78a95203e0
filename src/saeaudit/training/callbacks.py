"""Watch a run from outside; a callback cannot change its numbers."""

from collections.abc import Mapping
from pathlib import Path


class Callback:
    """The moments of a run; a subclass overrides those it needs. Mappings are plain: names to numbers.

    `metrics` are step, n_tokens, loss and loss/<term>, fvu, l0, dead_share, lr, grad_norm, seconds, tokens_per_second,
    and with several terms grad_share/<term>: the norm of a term's gradient over the sum of these norms, in the last
    step. The others, counts apart, are means since the last log. `on_start` is followed by exactly one of `on_end` and
    `on_fail`.
    """

    def on_start(self, info: Mapping[str, int]) -> None:
        """Learn n_steps, first_step (not 0 for a run that continues) and n_latents."""

    def on_log(self, metrics: Mapping[str, float]) -> None:
        """See the means since the last log."""

    def on_checkpoint(self, step: int, directory: Path) -> None:
        """Learn that a checkpoint is complete, after how many steps and where; later ones replace it.

        Where ranks divide the latents, `directory` is the first one's part.
        """

    def on_end(self, metrics: Mapping[str, float]) -> None:
        """See the last log of a run that ended as it should."""

    def on_fail(self, error: BaseException) -> None:
        """See what ended the run before its time: its own error, or an interruption."""
