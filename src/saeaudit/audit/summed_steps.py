"""The progress of runs that are trained together."""

from collections.abc import Mapping

from saeaudit.audit.stages import Watcher
from saeaudit.training import Callback


class SummedSteps:
    """Hands the steps of all runs to the watcher, as one sum."""

    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self._done: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def of(self, name: str) -> Callback:
        """Return what counts the steps of one run."""
        return _OwnSteps(self, name)

    def tell(self, name: str, done: int | None = None, total: int | None = None) -> None:
        """Record the steps of a run; without `done` it has ended."""
        self._total[name] = self._total.get(name, 0) if total is None else total
        self._done[name] = self._total[name] if done is None else done
        self._watcher.progress(sum(self._done.values()), sum(self._total.values()))


class _OwnSteps(Callback):
    def __init__(self, steps: SummedSteps, name: str) -> None:
        self._steps, self._name = steps, name

    def on_start(self, info: Mapping[str, int]) -> None:
        self._steps.tell(self._name, info["first_step"], info["n_steps"])

    def on_log(self, metrics: Mapping[str, float]) -> None:
        self._steps.tell(self._name, int(metrics["step"]))

    def on_end(self, metrics: Mapping[str, float]) -> None:
        self._steps.tell(self._name)

    def on_fail(self, error: BaseException) -> None:
        self._steps.tell(self._name)
