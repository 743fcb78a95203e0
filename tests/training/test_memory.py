"""What a wide dictionary takes, measured on a process of its own."""

import subprocess
import sys

import pytest

WIDE = """
import resource, sys, torch
from pathlib import Path
from saeaudit.dictionaries import DictionaryConfig, build
from saeaudit.statistics import SiteStatistics
from saeaudit.training import CheckpointConfig, TrainConfig, tensor_batches, train
from saeaudit.training.memory import training_bytes

torch.set_num_threads(1)
width, batch = 960, 1024
x = torch.randn(batch, width)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = DictionaryConfig(kind="diff", n_latents=32_768, k=32)
dictionary = build(config, SiteStatistics(x.mean(0), torch.tensor(1.0), batch), seed=0)
checkpoint = CheckpointConfig(directory=Path(sys.argv[1])) if len(sys.argv) > 1 else None
batches = tensor_batches(x, batch, seed=0, n_steps=2)
train(dictionary, batches, TrainConfig(n_steps=2, dead_after=1), checkpoint=checkpoint)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(before * 1024, after * 1024, training_bytes(dictionary.coder, batch))
"""


def peaks(*arguments):
    """Return peak bytes before the dictionary, peak bytes in all, and the bytes of a step as predicted."""
    command = [sys.executable, "-c", WIDE, *map(str, arguments)]
    return map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
def test_32768_latents_of_width_960_train_in_4_gb(tmp_path):
    before, peak, predicted = peaks()
    assert 1.0 < (peak - before) / predicted < 1.5
    _, peak, _ = peaks(tmp_path)
    assert peak < 4e9, "checkpoints included"
