"""On a Ray cluster of two cores: the same records as in this process, in the same directory."""

import os
import socket
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from saeaudit.errors import MissingExtra, ResourceError
from saeaudit.studies.ray_engine import run_on_ray
from saeaudit.studies.tasks import Plan, Task, run_here
from studies import toy_tasks as toy


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield ray
        ray.shutdown()


class InlineRay:
    """Enough of ray to see what is submitted and when: every task is done as soon as it is."""

    exceptions = SimpleNamespace(RayTaskError=RuntimeError, RayError=Exception)

    def __init__(self):
        self.submitted, self.open, self.most_open = [], 0, 0

    is_initialized = staticmethod(lambda: True)
    put = staticmethod(lambda value: value)
    cluster_resources = staticmethod(lambda: {"CPU": 2.0})

    def remote(self, **options):
        assert options["num_cpus"] == 1

        def submit(work, plan, task):
            self.submitted.append(task.name)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
            return (task.name, work(plan, task))

        return lambda work: SimpleNamespace(remote=partial(submit, work))

    def wait(self, references, num_returns):
        self.open -= 1
        return references[-1:], references[:-1]

    def get(self, reference):
        return reference[1]


def test_tasks_start_when_those_they_follow_are_done(tmp_path, monkeypatch):
    ray = InlineRay()
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    here, there = run_here(toy.mixed(tmp_path / "here")), run_on_ray(toy.mixed(tmp_path / "ray"))
    assert there.records == here.records and there.failed == here.failed
    assert ray.submitted == ["write", "refuse", "double", "double-again"] and ray.most_open == 2
    assert run_on_ray(toy.mixed(tmp_path / "ray")).failed == here.failed
    assert ray.submitted[4:] == ["refuse"]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cluster_that_does_not_answer(tmp_path, monkeypatch):
    def init(**_):
        raise ConnectionError("nobody at 10.0.0.1:6379")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ResourceError, match=r"no Ray cluster answers: nobody.*check RAY_ADDRESS"):
        run_on_ray(Plan(tmp_path, []))


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_said_at_once(tmp_path, monkeypatch, scheme):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can take it
        monkeypatch.setenv("RAY_ADDRESS", f"{scheme}127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ResourceError, match="Connection refused") as caught:
            run_on_ray(Plan(tmp_path, []))
    assert caught.value.code == "ray-unreachable"


@pytest.mark.slow
def test_the_records_are_those_of_one_process_and_are_kept(tmp_path, cluster, monkeypatch, capfd):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    (tmp_path / "here").mkdir()
    (tmp_path / "ray").mkdir()
    here, there = run_here(toy.mixed(tmp_path / "here")), run_on_ray(toy.mixed(tmp_path / "ray"))
    assert there.failed == here.failed and set(there.failed) == {"refuse", "after-refuse", "after-that"}
    assert {name: r.value for name, r in there.records.items()} == {name: r.value for name, r in here.records.items()}
    assert there.records["double"].threads == "1"
    assert run_here(toy.mixed(tmp_path / "ray")).records == there.records
    assert run_on_ray(toy.mixed(tmp_path / "ray")).seconds == there.seconds
    assert toy.calls(tmp_path / "ray") == ["write 3", "double 3", "double 3"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_task_alone_and_is_tried_again(tmp_path, cluster):
    tasks = [toy.source(), toy.follower(), Task("die", toy.die, {"marker": "died"}, toy.Number)]
    tasks.append(toy.follower(1, "after", "die"))
    finished = run_on_ray(Plan(tmp_path, tasks))
    assert set(finished.records) == {"write", "double"}
    assert (
        finished.failed["die"].startswith("its worker stopped") and finished.failed["after"] == "die failed before it"
    )
    assert set(run_on_ray(Plan(tmp_path, tasks)).records) == {"write", "double", "die", "after"}


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_directory_says_so(tmp_path, cluster):
    finished = run_on_ray(Plan(tmp_path / "elsewhere", [toy.source(), toy.follower()]))
    assert "elsewhere; choose an --out on a disk that all workers share" in finished.failed["write"]
    assert finished.failed["double"] == "write failed before it" and not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_fault_of_the_program_is_not_hidden(tmp_path, cluster):
    with pytest.raises(ZeroDivisionError):
        run_on_ray(Plan(tmp_path, [Task("fault", toy.break_down, {}, toy.Number)]))


def test_without_ray_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'saeaudit\[ray\]'") as caught:
        run_on_ray(Plan(tmp_path, []))
    assert caught.value.code == "ray-missing"
