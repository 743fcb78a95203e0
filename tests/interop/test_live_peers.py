"""Agreement with sae-lens, eai-sparsify and dictionary-learning, installed here and now, in both directions."""

import os
import subprocess
import venv
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from interop.golden_cases import agrees, copy_golden
from interop.test_round_trips import random_of
from planted_dictionaries import random_dictionary
from saeaudit.interop import read_dictionary, write_dictionary

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
PACKAGES = ("torch", "sae-lens", "eai-sparsify", "dictionary-learning")

READ_BACK = """
import sys
from pathlib import Path
from safetensors.torch import load_file, save_file
import torch
from sae_lens import SAE
from sparsify import SparseCoder

for directory in Path(sys.argv[1]).iterdir():
    x = load_file(directory / "x.safetensors")["x"]
    if (directory / "sae" / "sae.safetensors").exists():
        coder = SparseCoder.load_from_disk(directory / "sae")
        values, indices, _ = coder.encode(x)
        f = torch.zeros(len(x), coder.num_latents).scatter_(1, indices, values.detach())
        x_hat = coder.decode(values, indices)
    else:
        sae = SAE.load_from_disk(directory / "sae")
        f = sae.encode(x).detach()
        x_hat = sae.decode(f)
    theirs = {"f": f.contiguous(), "x_hat": x_hat.detach().contiguous()}
    save_file(theirs, directory / "theirs.safetensors")
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def peer_python(tmp_path_factory):
    """Return a Python with the three packages; set PEER_PYTHON to one that has them to save the installation."""
    if "PEER_PYTHON" in os.environ:
        return Path(os.environ["PEER_PYTHON"])
    home = tmp_path_factory.mktemp("peers") / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"pip could not install {', '.join(PACKAGES)}: {done.stderr.strip().splitlines()[-1:]}")
    # sae-lens brings a torchvision built for another torch, with which transformers cannot be imported.
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], capture_output=True, check=True
    )
    return python


def run(python, *arguments):
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_peers_write_is_read_as_they_read_it(peer_python, tmp_path):
    run(peer_python, HERE / "peers.py", tmp_path / "peers", "1")
    expected = sorted((tmp_path / "peers").rglob("expected.safetensors"))
    assert len(expected) == len(list((HERE / "golden").iterdir()))
    for file in expected:
        agrees(read_dictionary(file.parent), **load_file(file))


def test_what_is_written_for_a_peer_is_read_by_it(peer_python, tmp_path):
    written = {kind: random_dictionary(kind) for kind in ("sae", "diff")}
    written["topk"] = random_of("sae", {"sparsity": "topk", "k": 3})
    for case in ("sparsify-default", "dictionary_learning-AutoEncoder", "saelens-gated", "saelens-jumprelu"):
        directory = copy_golden(case, tmp_path)
        written[case] = read_dictionary(directory), load_file(directory / "expected.safetensors")["x"]
    for name, (dictionary, x) in written.items():
        format = "sparsify" if name == "topk" else "saelens"
        write_dictionary(dictionary, tmp_path / "out" / name / "sae", format=format)
        save_file({"x": x}, tmp_path / "out" / name / "x.safetensors")
    run(peer_python, "-c", READ_BACK, tmp_path / "out")
    for name, (dictionary, x) in written.items():
        theirs = load_file(tmp_path / "out" / name / "theirs.safetensors")
        assert bool((theirs["f"] > 0).any()), name
        agrees(dictionary, x, **theirs)
