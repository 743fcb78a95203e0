"""`benchmarks/gpu.py` where there is no GPU: it refuses, or runs its pieces at tiny sizes when told to."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def run(*arguments):
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_every_piece_runs_on_a_cpu_when_asked(tmp_path):
    done = run("--small", "--device", "cpu", "--repeats", "1", "--json", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert [result["size"]["n_sides"] for result in results] == [2, 1]
    for result in results:
        assert {"bare", "encode"} == result["product"].keys()
        assert {"bag", "dots", "weight_gradient"} == result["sums"].keys()
        assert {"ours, topk", "ours, batchtopk", "dense autograd, topk"} == result["step"].keys()
    assert "share of roofline" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_it_says_what_is_missing():
    done = run()
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "torch finds none" in done.stderr
