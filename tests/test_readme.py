"""The Python lines of the README work as they stand there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_the_python_lines_import_and_call_what_there_is():
    """In a fresh process, with the functions that would do the work bound to their arguments instead of called."""
    (block,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    body = ast.parse(block).body
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.ImportFrom)]
    calls = [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.Call)]
    bound = [
        f"inspect.signature({ast.unparse(call.func)}).bind("
        f"{', '.join(['0'] * len(call.args) + [f'{k.arg}=0' for k in call.keywords])})"
        for call in calls
    ]
    assert len(imports) >= 2 and len(bound) >= 3
    script = "\n".join(["import inspect", *imports, *bound])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
