"""The Triton kernels where there is no GPU: their own interpreter runs them on tensors of the CPU.

It must be asked for before Triton is imported, so the tests of the kernels and of all gradients run in a process of
their own, with every sum forced through Triton.
"""

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Before, the interpreter fails with numpy 2.4 in a loop whose bounds are loaded; the compiled kernels do not.
OLDEST_INTERPRETER = (3, 7)


def why_not():
    try:
        found = version("triton")
    except PackageNotFoundError:
        return "Triton is not installed: pip install 'saeaudit[triton]' (Linux)"
    if tuple(map(int, found.split(".")[:2])) < OLDEST_INTERPRETER:
        return f"the interpreter of Triton {found} is too old"
    return ""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("file", ["test_kernels.py", pytest.param("test_gradients.py", marks=pytest.mark.slow)])
def test_under_the_interpreter(file):
    environment = os.environ | {"TRITON_INTERPRET": "1", "SAEAUDIT_KERNELS": "triton"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", "not gpu", str(HERE / file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE.parent.parent, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
