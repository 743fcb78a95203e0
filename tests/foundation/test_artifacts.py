import errno
import fcntl
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saeaudit import artifacts
from saeaudit.artifacts import (
    atomic_directory,
    content_hash,
    contents,
    directory_lock,
    file_hash,
    read_json,
    remove_stale,
    write_bytes,
    write_json,
)
from saeaudit.errors import ArtifactError, ResourceError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def full_disk(code=errno.ENOSPC):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


def in_a_fork(work):
    """Run `work` in a forked process and return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


@settings(deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_hash_ignores_the_order_of_keys_and_sees_every_value(value):
    assert content_hash(dict(reversed(value.items()))) == content_hash(value)
    assert content_hash({"a": value}) != content_hash({"a": [value]})
    for key in value:
        assert content_hash({**value, key: [value[key]]}) != content_hash(value)


def test_a_hash_is_the_same_in_another_process(tmp_path):
    value = {"b": [1, 2.5, None, "ü\ud800"], "a": {"x": True}}
    code = f"from saeaudit.artifacts import content_hash; print(content_hash({value!r}))"
    environment = os.environ | {"PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert out.stdout.strip() == content_hash(value)


def test_tuples_are_lists_and_paths_are_texts(tmp_path):
    assert content_hash([(1, 2), tmp_path]) == content_hash([[1, 2], str(tmp_path)])


@pytest.mark.parametrize("value", [{1, 2}, object(), b"x", [{"a": {3}}]])
def test_what_has_no_stable_text_is_not_hashed(value):
    with pytest.raises(TypeError, match="no canonical JSON form"):
        content_hash(value)


@settings(deadline=None)
@given(JSON)
def test_json_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", value)
    assert list(tmp_path.iterdir()) == []


def test_files_get_the_permissions_of_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"x")
        with atomic_directory(tmp_path / "directory"):
            pass
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "directory").stat().st_mode) == 0o750


def test_bytes_reach_the_disk_before_their_name(tmp_path, monkeypatch):
    """A power cut after the rename must not leave an empty file under the final name."""
    events = []
    fsync, replace = os.fsync, artifacts.Path.replace
    monkeypatch.setattr(os, "fsync", lambda h: (events.append(stat.S_ISDIR(os.fstat(h).st_mode)), fsync(h))[1])
    monkeypatch.setattr(artifacts.Path, "replace", lambda a, b: (events.append("rename"), replace(a, b))[1])
    write_bytes(tmp_path / "x", b"abc")
    assert events == [False, "rename", True]


@pytest.mark.parametrize("call", ["fsync", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, code):
    path = tmp_path / "x.json"
    write_json(path, 1)
    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full_disk(code))
    else:
        monkeypatch.setattr("pathlib.Path.open", full_disk(code))
    with pytest.raises(ResourceError, match=r"x\.json: .* MB free\).*choose another --out") as caught:
        write_json(path, 2)
    monkeypatch.undo()
    assert caught.value.code == "disk-full"
    assert read_json(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_file_in_the_way_is_the_users_to_move(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (
        lambda: write_json(tmp_path / "file" / "x.json", 1),
        lambda: directory_lock(tmp_path / "file").__enter__(),
    ):
        with pytest.raises(ResourceError, match=f"{tmp_path / 'file'} is a file and not a directory; choose") as caught:
            write()
        assert caught.value.code == "not-writable"


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (None, "artifact-missing", "does not exist"),
        ("{", "artifact-broken", "not valid JSON"),
        ("[" * 100_000, "artifact-broken", "not valid JSON"),
        ("\udcff", "artifact-broken", "not valid JSON"),
        ("[]", "schema-mismatch", r"missing \(list\)"),
        ("{}", "schema-mismatch", "schema missing, this version of saeaudit reads schema 3"),
        ('{"schema": 2}', "schema-mismatch", "schema 2, this version of saeaudit reads schema 3"),
    ],
)
def test_json_that_cannot_be_used_says_why(tmp_path, text, code, says):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=says) as caught:
        read_json(path, schema=3)
    assert caught.value.code == code and str(path) in str(caught.value)


def test_a_directory_is_not_json(tmp_path):
    with pytest.raises(ArtifactError) as caught:
        read_json(tmp_path)
    assert caught.value.code == "artifact-unreadable"


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "artifact"
    with pytest.raises(KeyError), atomic_directory(target) as staging:
        (staging / "a").write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(target) as staging:
        (staging / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(KeyError), atomic_directory(target) as staging:
        (staging / "b").write_text("2")
        raise KeyError
    assert [p.name for p in target.iterdir()] == ["a"]
    with atomic_directory(target) as staging:
        (staging / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_directory_that_cannot_be_replaced_is_put_back(tmp_path, monkeypatch):
    target = tmp_path / "artifact"
    with atomic_directory(target) as staging:
        (staging / "a").write_text("1")
    replace = artifacts.Path.replace

    def fail_for_the_new_one(self, other):
        if ".tmp-" in self.name:
            full_disk()()
        return replace(self, other)

    monkeypatch.setattr(artifacts.Path, "replace", fail_for_the_new_one)
    with pytest.raises(ResourceError), atomic_directory(target):
        pass
    assert (target / "a").read_text() == "1"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    def die_in_a_file():
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        write_bytes(tmp_path / "unit", b"half")

    def die_in_a_directory():
        with atomic_directory(tmp_path / "artifact") as staging:
            (staging / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert [in_a_fork(die) for die in (die_in_a_file, die_in_a_directory)] == [-signal.SIGKILL] * 2
    (tmp_path / ".artifact.old-0123456789ab").mkdir()
    assert len(list(tmp_path.iterdir())) == 3 and contents(tmp_path) == []
    for name in ("unit", ".lock", ".own"):
        write_bytes(tmp_path / name, b"x")
    assert contents(tmp_path) == [".own", "unit"]
    remove_stale(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".own", "unit"]


def test_contents_of_what_is_not_there(tmp_path):
    assert contents(tmp_path / "none") == []
    (tmp_path / "file").write_text("")
    for place in ("file", "file/below"):
        with pytest.raises(ResourceError, match=f"{tmp_path / 'file'} is a file and not a directory") as caught:
            contents(tmp_path / place)
        assert caught.value.code == "not-writable"


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOENT, errno.EPERM, errno.ENAMETOOLONG, errno.EINVAL])
def test_whatever_forbids_a_directory_is_said_without_advice_about_space(tmp_path, monkeypatch, code):
    monkeypatch.setattr("pathlib.Path.mkdir", full_disk(code))
    for write in (
        lambda: write_json(tmp_path / "new" / "x.json", 1),
        lambda: directory_lock(tmp_path / "new").__enter__(),
        lambda: atomic_directory(tmp_path / "new" / "artifact").__enter__(),
    ):
        with pytest.raises(ResourceError) as caught:
            write()
        assert f": {os.strerror(code)}; choose another --out" in str(caught.value)
        assert caught.value.code == "not-writable" and "MB" not in str(caught.value)


def test_a_file_hash_is_the_sha256_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_lock_keeps_others_out_names_its_holder_and_goes(tmp_path):
    with directory_lock(tmp_path):
        with pytest.raises(ArtifactError, match=f"process {os.getpid()} on") as caught, directory_lock(tmp_path):
            pass
        assert caught.value.code == "directory-locked"

        def enter():
            with directory_lock(tmp_path):
                pass

        assert in_a_fork(enter) == 1
    assert list(tmp_path.iterdir()) == []
    with directory_lock(tmp_path):
        pass


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    def hold_and_die():
        with directory_lock(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_fork(hold_and_die) == -signal.SIGKILL
    assert (tmp_path / ".lock").is_file()
    with directory_lock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()


def test_a_half_written_lock_without_a_holder_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_text('{"host": "so')
    with directory_lock(tmp_path):
        pass


def test_a_lock_of_another_host_is_left_alone(tmp_path):
    text = json.dumps({"host": "elsewhere.invalid", "pid": 1})
    (tmp_path / ".lock").write_text(text)
    with pytest.raises(ArtifactError, match=r"process 1 on elsewhere\.invalid.*delete"), directory_lock(tmp_path):
        pass
    assert (tmp_path / ".lock").read_text() == text


def test_a_lock_on_a_file_that_its_holder_just_removed_does_not_count(tmp_path, monkeypatch):
    """Between opening the file and locking it, the holder may leave and another process may make a new one."""
    flock, calls = fcntl.flock, []

    def late(handle, how):
        calls.append(how)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()
        flock(handle, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with directory_lock(tmp_path):
        assert len(calls) == 2 and (tmp_path / ".lock").is_file()
        with pytest.raises(ArtifactError), directory_lock(tmp_path):
            pass


def test_only_one_of_many_processes_holds_the_lock_at_a_time(tmp_path):
    """Each winner appends a begin and an end mark; interleaved marks would show two holders."""
    log = tmp_path / "log"
    log.write_text("")

    def compete():
        for _ in range(60):
            try:
                with directory_lock(tmp_path / "locked"):
                    for mark in "be":
                        with log.open("a") as stream:
                            stream.write(mark)
            except ArtifactError:
                pass

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=compete) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    marks = log.read_text()
    assert marks and marks == "be" * (len(marks) // 2)
