"""`--device`: train and evaluate on another device than the CPU, where there is none (`imitation_device`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from json_numbers import numbers
from saeaudit.activations import StoreWriter, UnitText
from saeaudit.dictionaries import load_dictionary

IMITATION = Path(__file__).parent.parent / "imitation_device.py"
KINDS = {"diff": "topk", "crosscoder": "batchtopk"}


def commands(made, out, device):
    """Command lines that read what is `made` and write to `out`."""
    to = ["--device", device, "--out"]
    for kind, rule in KINDS.items():
        what = ["--site", "layers.1", "--kind", kind, "--sparsity", rule]
        sizes = [f"--set={s}" for s in ("expansion=2", "k=4", "n_samples=1000", "batch_size=100")]
        yield ["train", made / "store", *what, *sizes, *to, out / kind]
        quick = [f"--set={s}" for s in ("n_resamples=100", "template_ids=1,2", "rows=all")]
        yield ["evaluate", made / kind, "--store", made / "store", *quick, *to, out / f"{kind}.json"]


def write_store(path):
    generator, names = torch.Generator().manual_seed(0), ["layers.1/base", "layers.1/tuned"]
    tensors = {name: torch.randn(640, 16, generator=generator) for name in names}
    writer = StoreWriter(path, made_from={"models": {}}, unit_rows=[640], tensors=names)
    writer.write(0, tensors, UnitText(torch.arange(640, dtype=torch.int32) % 5, torch.full((32,), 20)))


def test_train_and_evaluate_find_on_another_device_what_they_find_on_the_cpu(saeaudit, tmp_path):
    """What mixes tensors of two devices is an error there, as on a GPU; of a GPU itself it says nothing."""
    cpu, other = tmp_path / "cpu", tmp_path / "other"
    write_store(cpu / "store")
    for line in commands(cpu, cpu, "cpu"):
        done = saeaudit(*line)
        assert done.code == 0, done.err
    lines = " -- ".join(" ".join(map(str, line)) for line in commands(cpu, other, "imitation"))
    done = subprocess.run([sys.executable, IMITATION, *lines.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for kind in KINDS:
        fits = [load_dictionary(where / kind).provenance.training["fvu"] for where in (cpu, other)]
        assert fits[1] == pytest.approx(fits[0], rel=0.02), kind
        judged = [json.loads((where / f"{kind}.json").read_text()) for where in (cpu, other)]
        assert [each["settings"].pop("device") for each in judged] == ["cpu", "imitation"]
        wanted = dict(numbers(judged[0]))
        assert len(wanted) > 150
        for name, value in numbers(judged[1]):
            assert value == wanted[name] or value == pytest.approx(wanted[name], rel=1e-4, abs=1e-4), (kind, name)
