import pytest
import torch

from saeaudit.errors import ConfigError, ModelError
from saeaudit.models import resolve_dtype
from saeaudit.models.precision import cpu_has_bfloat16, resolve_device


def cpuinfo(tmp_path, flags):
    path = tmp_path / f"cpuinfo-{flags.replace(' ', '-')}"
    path.write_text(f"processor\t: 0\nmodel name\t: made up avx512_bf16\nflags\t\t: fpu {flags} sse2\n")
    return path


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("avx512_bf16", True), ("amx_bf16", True), ("avx2 avx512f", False), ("avx512_bf16x", False)],
)
def test_bfloat16_is_read_from_the_flags_of_the_cpu(tmp_path, flags, expected):
    assert cpu_has_bfloat16(cpuinfo(tmp_path, flags)) is expected


def test_a_system_without_flags_computes_in_float32(tmp_path):
    assert cpu_has_bfloat16(tmp_path / "missing") is False


def test_auto_follows_the_hardware(monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("saeaudit.models.precision.cpu_has_bfloat16", lambda has=has: has)
        assert resolve_dtype("auto", "cpu") is expected
        assert resolve_dtype("auto", "cuda") is torch.bfloat16
        assert resolve_dtype("float32", "cuda") is torch.float32
        assert resolve_dtype(torch.float16) is torch.float16


def test_unknown_choices_are_refused():
    with pytest.raises(ConfigError, match="choose one of auto, float32"):
        resolve_dtype(torch.int8)
    for device in ("warp9", "cuda:97"):
        with pytest.raises(ModelError, match="cannot be used here") as caught:
            resolve_device(device)
        assert caught.value.code == "device-unavailable"
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("n_gpus", "advice"), [(0, "this torch finds no GPU: choose cpu"), (2, "there are cpu, cuda:0, cuda:1: choose one")]
)
def test_a_device_that_is_not_there_is_answered_with_those_that_are(monkeypatch, n_gpus, advice):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    with pytest.raises(ModelError, match=advice):
        resolve_device("cuda:99")
