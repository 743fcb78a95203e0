"""A harvest that is killed anywhere and started again leaves the same files as one that ran through."""

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from saeaudit import artifacts
from saeaudit.activations import BASE, ActivationStore, HarvestConfig, harvest
from saeaudit.artifacts import file_hash
from saeaudit.errors import ArtifactError, ResourceError
from saeaudit.models import decoder

SITES = ["layers.1"]
CONFIG = HarvestConfig(batch_tokens=90, unit_rows=80)
STEPS = ("open", "replace", "unlink")


def run(pair, tokens, out, config=CONFIG):
    return harvest({BASE: pair.base, "tuned": pair.tuned}, tokens, SITES, config, out=out)


def hashes(directory):
    return {path.name: file_hash(path) for path in directory.iterdir()}


@pytest.fixture
def reference(tiny_pair, tokens, tmp_path):
    run(tiny_pair, tokens, tmp_path / "whole")
    found = hashes(tmp_path / "whole")
    assert len(found) > 3
    return found


def die_at(step):
    """Count file operations and die by SIGKILL just before number `step`; half of what is written reaches the disk."""
    left = [step]

    def counting(call):
        def counted(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counted

    def half_written(handle):
        left[0] -= 1
        if left[0] == 0:
            with contextlib.suppress(OSError):  # a directory is synced as well, and has no half
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(handle)

    fsync = os.fsync
    artifacts.os.fsync = half_written
    for name in STEPS:
        setattr(Path, name, counting(getattr(Path, name)))
    return left


def forked(work):
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def n_file_operations(pair, tokens, out):
    """Number of operations of a whole harvest, counted in a fork, which may patch what it likes."""
    receive, send = multiprocessing.get_context("fork").Pipe()

    def count():
        left = die_at(10**9)
        run(pair, tokens, out)
        send.send(10**9 - left[0])

    forked(count).join(60)
    return receive.recv()


def test_killed_before_every_single_file_operation(tiny_pair, few_tokens, tmp_path):
    tokens = few_tokens
    run(tiny_pair, tokens, tmp_path / "whole")
    reference = hashes(tmp_path / "whole")
    total = n_file_operations(tiny_pair, tokens, tmp_path / "count")
    assert len(reference) > 2 and total > 4 * len(reference)
    outcomes = set()
    for step in range(1, total + 1):
        out = tmp_path / f"killed-{step}"

        def work(out=out, step=step):
            die_at(step)
            run(tiny_pair, tokens, out)

        process = forked(work)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        try:
            ActivationStore(out, verify=True)
            outcomes.add("complete")
        except ArtifactError as error:
            outcomes.add(error.code)
        run(tiny_pair, tokens, out)
        assert hashes(out) == reference, step
    assert outcomes == {"artifact-missing", "store-unfinished", "complete"}


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment(tiny_pair, tokens, tmp_path, reference, seed):
    out = tmp_path / "killed"
    rng = random.Random(seed)
    for _ in range(5):
        process = forked(lambda: run(tiny_pair, tokens, out))
        time.sleep(rng.uniform(0.005, 0.12))
        process.kill()
        process.join(60)
    run(tiny_pair, tokens, out)
    assert hashes(out) == reference


def test_only_what_is_missing_is_computed_again(tiny_pair, tokens, tmp_path, reference):
    calls = []
    decoder(tiny_pair.base.model).register_forward_pre_hook(lambda *_: calls.append(1))
    seen = []
    out = tmp_path / "whole"
    assert run(tiny_pair, tokens, out).n_rows == tokens.n_rows and not calls
    (out / "unit-00001.safetensors").unlink()
    harvest(
        {BASE: tiny_pair.base, "tuned": tiny_pair.tuned},
        tokens,
        SITES,
        CONFIG,
        out=out,
        progress=lambda *at: seen.append(at),
    )
    assert hashes(out) == reference
    assert 0 < len(calls) == len(seen) and seen[-1] == (13, 13) and seen[0][0] > 1


@pytest.mark.parametrize("failing", [1, 3, 5, 8])
def test_a_full_disk_keeps_what_is_finished(tiny_pair, tokens, tmp_path, reference, monkeypatch, failing):
    out, calls, fsync = tmp_path / "full", [], os.fsync

    def full(handle):
        calls.append(handle)
        if len(calls) >= failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="what was finished before is kept") as caught:
        run(tiny_pair, tokens, out)
    monkeypatch.undo()
    assert caught.value.code == "disk-full"
    kept = {path.name for path in out.iterdir() if path.suffix == ".safetensors"}
    assert all(file_hash(out / name) == reference[name] for name in kept)
    run(tiny_pair, tokens, out)
    assert hashes(out) == reference


def test_other_inputs_are_named(tiny_pair, tokens, tmp_path, reference):
    out = tmp_path / "whole"
    with pytest.raises(ArtifactError, match="made from other settings: sites, tensors differ") as caught:
        harvest({BASE: tiny_pair.base, "tuned": tiny_pair.tuned}, tokens, ["layers.2"], CONFIG, out=out)
    assert caught.value.code == "resume-mismatch"
    for models, named in (
        ({BASE: tiny_pair.tuned, "tuned": tiny_pair.base}, "models differ"),
        ({BASE: tiny_pair.base}, "models, tensors differ"),
    ):
        with pytest.raises(ArtifactError, match=named):
            harvest(models, tokens, SITES, CONFIG, out=out)
    with pytest.raises(ArtifactError, match="unit_rows differ"):
        run(tiny_pair, tokens, out, HarvestConfig(unit_rows=100))
    assert hashes(out) == reference


def test_models_may_move_on_disk(tiny_pair, tokens, tmp_path, reference):
    from dataclasses import replace

    moved = replace(tiny_pair.base, card=replace(tiny_pair.base.card, source="elsewhere"))
    harvest({BASE: moved, "tuned": tiny_pair.tuned}, tokens, SITES, CONFIG, out=tmp_path / "whole")
    assert hashes(tmp_path / "whole") == reference
