"""What is done is kept, what changed is made again, and what fails takes only its followers with it."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from saeaudit.studies.tasks import Finished, Plan, Task, run_here, seconds_left
from studies import toy_tasks as toy


def test_done_tasks_are_not_repeated(tmp_path):
    first = run_here(Plan(tmp_path, [toy.source(), toy.follower()]))
    second = run_here(Plan(tmp_path, [toy.source(), toy.follower()]))
    assert first.records == second.records == {"write": toy.Number(value=1), "double": second.records["double"]}
    assert second.records["double"].value == 2
    assert first.seconds == second.seconds
    assert toy.calls(tmp_path) == ["write 1", "double 1"]


def test_the_time_left_is_what_tasks_of_the_same_kind_took(tmp_path):
    plan = Plan(
        tmp_path, [toy.source(), toy.follower(), toy.follower(name="second"), replace(toy.source(2), name="other")]
    )
    tasks, finished = list(plan.tasks.values()), Finished()
    assert seconds_left(plan, tasks, finished) is None
    finished.seconds |= {"write": 4.0, "double": 10.0}
    assert seconds_left(plan, tasks[2:], finished) == 14.0
    finished.seconds["second"] = 20.0
    assert seconds_left(plan, [tasks[1], tasks[3]], finished) == 19.0
    assert seconds_left(plan, [], finished) == 0.0


def test_changed_arguments_do_the_task_and_its_followers_again_and_nothing_else(tmp_path):
    other = toy.source(5)
    other = Task("other", other.work, other.arguments, other.record)
    run_here(Plan(tmp_path, [toy.source(1), toy.follower(1), other]))
    again = toy.follower(1)
    changed = Task("write", toy.write, {"value": 2}, toy.Number, product="product-2", support=True)
    finished = run_here(Plan(tmp_path, [changed, again, other]))
    assert toy.calls(tmp_path) == ["write 1", "double 1", "write 5", "write 2", "double 1"]
    assert set(finished.records) == {"write", "double", "other"}


def test_another_function_does_the_task_again(tmp_path):
    run_here(Plan(tmp_path, [Task("it", toy.write, {"value": 1}, toy.Number)]))
    finished = run_here(Plan(tmp_path, [Task("it", toy.double, {"value": 1}, toy.Number)]))
    assert finished.records["it"].value == 2


def test_a_support_task_is_done_only_when_something_unfinished_reads_it(tmp_path):
    assert run_here(Plan(tmp_path, [toy.source()])).records == {}
    assert toy.calls(tmp_path) == []
    run_here(Plan(tmp_path, [toy.source(), toy.follower()]))
    (tmp_path / "product-1").unlink()
    finished = run_here(Plan(tmp_path, [toy.source(), toy.follower()]))
    assert toy.calls(tmp_path) == ["write 1", "double 1"] and set(finished.records) == {"double"}
    run_here(Plan(tmp_path, [toy.source(), toy.follower(), toy.follower(name="later")]))
    assert toy.calls(tmp_path) == ["write 1", "double 1", "write 1", "double 1"]


def test_a_missing_product_is_made_again(tmp_path):
    alone = Task("write", toy.write, {"value": 1}, toy.Number, product="product-1")
    run_here(Plan(tmp_path, [alone]))
    (tmp_path / "product-1").unlink()
    run_here(Plan(tmp_path, [alone]))
    assert toy.calls(tmp_path) == ["write 1", "write 1"] and (tmp_path / "product-1").exists()


def test_a_failure_stops_its_followers_only_and_is_tried_again(tmp_path):
    for _ in range(2):
        finished = run_here(toy.mixed(tmp_path))
        assert finished.failed == {
            "refuse": "there is nothing to read; give more",
            "after-refuse": "refuse failed before it",
            "after-that": "after-refuse failed before it",
        }
        assert set(finished.records) == {"write", "double", "double-again"}
    assert toy.calls(tmp_path) == ["write 3", "double 3", "double 3"]


def test_a_fault_of_the_program_is_not_hidden(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run_here(Plan(tmp_path, [Task("fault", toy.break_down, {}, toy.Number)]))


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"schema": 99}',
        '{"schema": 1}',
        "nothing of ours",
        '{"schema": 1, "inputs": "another", "seconds": 1.0, "record": {"value": 9}}',
    ],
)
def test_a_broken_or_foreign_record_is_made_again(tmp_path, content):
    plan = Plan(tmp_path, [toy.source(), toy.follower()])
    run_here(plan)
    (tmp_path / "tasks" / "double.json").write_text(content)
    assert run_here(plan).records["double"].value == 2
    assert toy.calls(tmp_path) == ["write 1", "double 1", "double 1"]


@pytest.mark.parametrize("change", [{"record": {"value": "x"}}, {"record": {"other": 1}}, {"seconds": None}])
def test_a_record_of_another_version_is_made_again(tmp_path, change):
    plan = Plan(tmp_path, [toy.source(), toy.follower()])
    run_here(plan)
    path = tmp_path / "tasks" / "double.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert run_here(plan).records["double"].value == 2


def test_names_must_differ(tmp_path):
    with pytest.raises(ValueError, match="share a name"):
        Plan(tmp_path, [toy.source(), toy.source()])


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from saeaudit.studies.tasks import Finished, Plan, Task, run_here, seconds_left
from studies import toy_tasks as toy
directory = Path(sys.argv[2])
tasks = [toy.source(), toy.follower(), Task("die", toy.die, {"marker": "died"}, toy.Number), toy.follower(1, "last")]
print(sorted(run_here(Plan(directory, tasks)).records))
"""


def test_a_kill_in_the_middle_of_a_task_leaves_the_others_valid(tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent.parent), str(tmp_path)]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "tasks").iterdir()) == ["double.json", "write.json"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "['die', 'double', 'last', 'write']"
    assert toy.calls(tmp_path) == ["write 1", "double 1", "double 1"]
