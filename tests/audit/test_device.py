"""Which device a process computes on."""

import pytest
import torch

from saeaudit.audit import device
from saeaudit.audit.device import own_device
from saeaudit.errors import ConfigError, ModelError


@pytest.mark.parametrize("asked", ["meta", "mps", "gpu", "cuda:", "cuda:x", "", "CPU"])
def test_what_is_no_device_of_ours_is_refused(asked):
    with pytest.raises(ModelError, match="choose cpu, cuda or cuda:N") as caught:
        own_device(asked)
    assert caught.value.code == "device-unavailable"


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match="device 'cuda:99' was asked for, but it cannot be used here") as caught:
        own_device("cuda:99")
    assert caught.value.code == "device-unavailable"


def test_each_process_of_torchrun_takes_the_gpu_with_its_number(monkeypatch):
    monkeypatch.setattr(device, "resolve_device", torch.device)
    assert [str(own_device(asked)) for asked in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "7")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [str(own_device(asked)) for asked in ("cpu", "cuda")] == ["cpu", "cuda:3"]
    with pytest.raises(ConfigError, match="8 processes were given the one device 'cuda:1'; give cuda") as caught:
        own_device("cuda:1")
    assert caught.value.code == "device-shared"
