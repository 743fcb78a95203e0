"""Artifacts on disk: directories that appear complete or not at all, JSON with a schema number, content hashes, locks.

An artifact is a directory with `config.json` (integer `schema`) and safetensors files. It is written under a temporary
name and renamed, so a reader never sees half of one. Hashes name what an artifact was made from. A lock keeps two runs
out of one directory; the kernel releases it when its process ends, however it ends.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TextIO

from saeaudit.errors import ArtifactError, ResourceError

LOCK_NAME = ".lock"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST)
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, *_IN_THE_WAY)
# What a killed writer may leave: names that `_beside` made.
_STALE = (".*.tmp-*", ".*.old-*")


def content_hash(value: Any) -> str:
    """Return the sha256 (hex) of `value` as canonical JSON; the same value gives the same hash in every process.

    Lists and tuples are the same, and so are a path and its text. Raises `TypeError` for anything else that JSON does
    not have: the text of a set or of a tensor depends on the process or leaves elements out.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=_path_text)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _path_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON form; convert it before it is hashed")


def file_hash(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity are refused because JSON has none."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: temporary name, flush to disk, rename.

    Raises:
        ResourceError: no space (`disk-full`) or no permission (`not-writable`); `path` is then as it was.
    """
    make_directory(path.parent)
    with disk_errors(path):
        temporary = _beside(path, "tmp")
        try:
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make `path` and its parents where they are not there.

    Raises:
        ResourceError: it cannot be made, for whatever reason the system has.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error


def remove_stale(directory: Path) -> None:
    """Delete what killed writers left half done in `directory`; only for the holder of its lock."""
    for pattern in _STALE:
        for path in directory.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def contents(directory: Path) -> list[str]:
    """Return the names in `directory`, if it is there, without a lock and without what killed writers left half done.

    Raises:
        ResourceError: it is no directory, or cannot be read.
    """
    with disk_errors(directory):
        try:
            names = sorted(path.name for path in directory.iterdir())
        except FileNotFoundError:
            return []
    return [name for name in names if name != LOCK_NAME and not any(fnmatch(name, pattern) for pattern in _STALE)]


def read_json(path: Path, *, schema: int | None = None) -> Any:
    """Read JSON; with `schema`, require that integer under the key `schema`.

    Raises:
        ArtifactError: the file is missing, is not JSON, or has another schema (both numbers are in the text).
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{path} does not exist; check the path, or run the step that writes it", code="artifact-missing"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}", code="artifact-unreadable") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is not valid JSON: {error}; delete it and run the step that writes it again",
            code="artifact-broken",
        ) from None
    if schema is not None and (not isinstance(value, dict) or value.get("schema") != schema):
        found = value.get("schema", "missing") if isinstance(value, dict) else f"missing ({type(value).__name__})"
        raise ArtifactError(
            f"{path} has schema {found}, this version of saeaudit reads schema {schema}; "
            "read it with the version that wrote it, or make it again",
            code="schema-mismatch",
        )
    return value


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty staging directory beside `target` that becomes `target` when the block succeeds.

    An existing `target` is replaced only after the new one is complete. On an exception nothing of `target` changes.
    """
    make_directory(target.parent)
    with disk_errors(target):
        staging = _beside(target, "tmp")
        staging.mkdir()
        try:
            yield staging
            _put_in_place(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.replace(target)
        return
    retired = _beside(target, "old")
    target.replace(retired)
    try:
        staging.replace(target)
    except OSError:
        retired.replace(target)
        raise
    shutil.rmtree(retired)


def _beside(path: Path, what: str) -> Path:
    """Return an unused hidden name in the same directory; created by the caller, so that the umask applies."""
    return path.with_name(f".{path.name}.{what}-{uuid.uuid4().hex[:12]}")


def _sync_directory(directory: Path) -> None:
    """Make renames in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left', 'read-only', 'not a directory' and the like into a `ResourceError`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL + _NOT_WRITABLE:
            raise
        raise _not_written(path, error) from error


def _not_written(path: Path, error: OSError) -> ResourceError:
    if error.errno in _FULL:
        parent = next((p for p in [path, *path.parents] if p.exists()), Path("/"))
        free = shutil.disk_usage(parent).free
        return ResourceError(
            f"cannot write {path}: {error.strerror} ({free / 1e6:.0f} MB free); what was finished before is kept, "
            "free some space or choose another --out and run the same command again",
            code="disk-full",
        )
    reason = error.strerror
    if error.errno in _IN_THE_WAY:
        file = next((p for p in [path, *path.parents] if p.exists() and not p.is_dir()), path)
        reason = f"{file} is a file and not a directory"
    return ResourceError(f"cannot write {path}: {reason}; choose another --out", code="not-writable")


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the only writer's lock of `directory` for the block.

    The file `.lock` names host and process for the error text; what counts is the kernel's lock on it, which ends with
    its process. Only a file left by another host, whose processes cannot be seen from here, has to be deleted by hand.

    Raises:
        ArtifactError: a live process holds it, or a process on another host left it (code `directory-locked`).
        ResourceError: the directory cannot be written.
    """
    make_directory(directory)
    path = directory / LOCK_NAME
    with disk_errors(path):
        handle = _acquire(path)
    try:
        yield
    finally:
        # Removed while the lock is still held: whoever waits on the old file finds another one (see _acquire).
        path.unlink(missing_ok=True)
        handle.close()


def _acquire(path: Path) -> TextIO:
    while True:
        handle = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(handle)
            handle.close()
            raise _locked(path, holder) from None
        if path.exists() and path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
            break
        handle.close()
    holder = _holder(handle)
    host = socket.gethostname()
    if holder is not None and holder["host"] != host:
        handle.close()
        raise _locked(path, holder)
    handle.truncate(0)
    json.dump({"host": host, "pid": os.getpid()}, handle)
    handle.flush()
    return handle


def _holder(handle: TextIO) -> dict[str, Any] | None:
    """Return who wrote the lock file; None where nobody did, or only half of it."""
    handle.seek(0)
    try:
        holder = json.load(handle)
        return {"host": str(holder["host"]), "pid": int(holder["pid"])}
    except (ValueError, KeyError, TypeError):
        return None


def _locked(path: Path, holder: dict[str, Any] | None) -> ArtifactError:
    who = "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
    return ArtifactError(
        f"{path.parent} is being written by {who}; wait for it, choose another --out, or delete {path} if that process "
        "no longer exists",
        code="directory-locked",
    )
