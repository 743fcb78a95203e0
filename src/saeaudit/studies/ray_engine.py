"""Run the tasks of a study on a Ray cluster: the same records in the same directory, several at a time.

The directory must be one that every worker sees. A cluster that this process is connected to is used, then the one at
`RAY_ADDRESS` or on this machine (`ray start`); without any, one is started with this machine's cores and stopped at the
end. Needs the extra `ray`.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from saeaudit.audit.stages import Silent, Watcher
from saeaudit.errors import MissingExtra, ResourceError, SaeAuditError
from saeaudit.findings import Record
from saeaudit.studies.tasks import Finished, Plan, Task, failed_before
from saeaudit.wording import counted

Outcome = tuple[Record, float] | str


def run_on_ray(plan: Plan, watcher: Watcher | None = None) -> Finished:
    """Do what is missing, each task on one core as soon as those it follows are done.

    As with `run_here`: a task that fails for a reason that the user can act on is recorded as failed, its followers are
    not tried, and the others go on. A worker that dies, for want of memory for instance, fails its task alone.

    Raises:
        MissingExtra: ray is not installed ("ray-missing").
        ResourceError: no cluster answers at `RAY_ADDRESS` ("ray-unreachable").
    """
    watcher = watcher or Silent()
    with _cluster() as ray:
        # Workers have another working directory.
        plan = Plan(plan.directory.resolve(), list(plan.tasks.values()))
        finished = plan.finished()
        waiting = plan.missing(finished)
        n, shared, running = len(waiting), ray.put(plan), {}
        if finished.records:
            watcher.note(f"{counted(len(finished.records), 'task')} done before")
        watcher.stage(f"{counted(n, 'task')} on {counted(round(ray.cluster_resources().get('CPU', 0)), 'core')}")
        work = ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(_work)
        while waiting or running:
            ready, waiting = _ready(waiting, finished)
            running |= {work.remote(shared, task): task for task in ready}
            if not running:
                break
            (reference,), _ = ray.wait(list(running), num_returns=1)
            task = running.pop(reference)
            _keep(finished, task, _outcome(ray, reference))
            watcher.note(f"{task.name}: {finished.failed.get(task.name, 'done')}")
            watcher.progress(n - len(waiting) - len(running), n)
    return finished


def _work(plan: Plan, task: Task) -> Outcome:
    """Do one task in a worker; errors of the user come back as their text, which needs no class to be rebuilt."""
    if not plan.directory.is_dir():
        return f"{socket.gethostname()} does not see {plan.directory}; choose an --out on a disk that all workers share"
    try:
        return plan.run(task, Silent())
    except SaeAuditError as error:
        return str(error)


def _ready(waiting: Sequence[Task], finished: Finished) -> tuple[list[Task], list[Task]]:
    """Return the tasks that can run now and those that cannot yet; what follows a failure is recorded as failed."""
    ready, later = [], []
    for task in waiting:
        if (cause := failed_before(task, finished)) is not None:
            finished.failed[task.name] = cause
        elif all(name in finished.records for name in task.after):
            ready.append(task)
        else:
            later.append(task)
    return ready, later


def _outcome(ray: Any, reference: Any) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a fault of the program, as it would be in this process
    except ray.exceptions.RayError as error:
        return f"its worker stopped: {error}"


def _keep(finished: Finished, task: Task, outcome: Outcome) -> None:
    if isinstance(outcome, str):
        finished.failed[task.name] = outcome
    else:
        finished.records[task.name], finished.seconds[task.name] = outcome


@contextmanager
def _cluster() -> Iterator[Any]:
    """Yield the module `ray`, connected; a connection made here ends here."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError:
        raise MissingExtra(
            "the study was asked to run on Ray, which is not installed; install it: pip install 'saeaudit[ray]', "
            "or run here (--engine here)",
            code="ray-missing",
        ) from None
    if ray.is_initialized():
        yield ray
        return
    try:
        _require_answer(os.environ.get("RAY_ADDRESS", ""))
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError) as error:
        raise ResourceError(
            f"no Ray cluster answers: {error}; check RAY_ADDRESS, or unset it for a cluster on this machine",
            code="ray-unreachable",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise `OSError` if nobody listens at `host:port` or `ray://host:port`; ray itself would try for minutes."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
