"""Artifacts on disk: directories that appear complete or not at all, JSON with a schema number, content hashes, locks.

An artifact is a directory with `config.json` (integer `schema`) and safetensors files. It is written under a temporary
name and renamed, so a reader never sees half of one. Hashes name what an artifact was made from. A lock keeps two runs
out of one directory; a lock left by a killed process is recognised by host name and process id and taken over.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saeaudit.errors import ArtifactError, ResourceError

LOCK_NAME = ".lock"


def content_hash(value: Any) -> str:
    """Return the sha256 (hex) of `value` as canonical JSON; equal values give equal hashes in every process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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
    """Write a file atomically: temporary name, flush to disk, rename."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.tmp-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_json(path: Path, *, schema: int | None = None) -> Any:
    """Read JSON; with `schema`, require that integer under the key `schema`.

    Raises:
        ArtifactError: the file is missing, is not JSON, or has another schema (both numbers are in the text).
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist", code="artifact-missing") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArtifactError(f"{path} is not valid JSON: {error}", code="artifact-broken") from None
    if schema is not None and (not isinstance(value, dict) or value.get("schema") != schema):
        found = value.get("schema") if isinstance(value, dict) else type(value).__name__
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
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.tmp-"))
        try:
            yield staging
            staging.chmod(0o755)
            if target.exists():
                retired = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old-"))
                target.replace(retired / "old")
                staging.replace(target)
                shutil.rmtree(retired)
            else:
                staging.replace(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn 'no space left' and 'read-only' into a `ResourceError` that names the path and the bytes left."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        parent = next((p for p in [path, *path.parents] if p.exists()), Path("/"))
        free = shutil.disk_usage(parent).free
        raise ResourceError(
            f"cannot write {path}: {error.strerror} ({free / 1e6:.0f} MB free); what was finished before is kept, "
            "free some space or choose another --out and run the same command again",
            code="disk-full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "not-writable",
        ) from error


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the only writer's lock of `directory` for the block.

    Raises:
        ArtifactError: another live process on this host holds it, or a process on another host left it.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    path = directory / LOCK_NAME
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    while True:
        try:
            with disk_errors(path), path.open("x", encoding="utf-8") as handle:
                json.dump(mine, handle)
            break
        except FileExistsError:
            _take_over_if_dead(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _take_over_if_dead(path: Path) -> None:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        host, pid, started = holder["host"], int(holder["pid"]), holder["started"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        host, pid, started = socket.gethostname(), -1, None
    if host == socket.gethostname() and (pid < 0 or _started(pid) is None or _started(pid) != started):
        path.unlink(missing_ok=True)
        return
    raise ArtifactError(
        f"{path.parent} is being written by process {pid} on {host}; wait for it, choose another --out, "
        f"or delete {path} if that process no longer exists",
        code="directory-locked",
    )


def _started(pid: int) -> str | None:
    """Return the start time of a live process (it tells a reused process id apart), or None if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        if not Path("/proc/self").exists():
            return "unknown" if _alive(pid) else None
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
