"""Neutral text that every machine has: docstrings and code of the interpreter's own standard library.

Used where a user gives no corpus: to fit dictionaries on something besides the prompts, and to measure what an edit
costs on ordinary text. The documents depend on the Python version, so their hash is recorded with the numbers.
"""

import ast
import sysconfig
import textwrap
from pathlib import Path

from saeaudit.seeds import python_random

MIN_CHARACTERS = 300
MAX_CHARACTERS = 700


def standard_library_texts(n: int, *, seed: int) -> list[str]:
    """Return `n` texts, half prose (docstrings), half code, drawn from the standard library without repetition."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.glob("*.py"))
    files += sorted(
        p for d in ("asyncio", "email", "json", "logging", "unittest", "xml") for p in (root / d).rglob("*.py")
    )
    prose: list[str] = []
    code: list[str] = []
    for path in files:
        source = path.read_text(encoding="utf-8", errors="replace")
        prose += [d[:MAX_CHARACTERS] for d in _docstrings(source) if len(d) >= MIN_CHARACTERS]
        code += _excerpts(source)
    rng = python_random(seed, "standard-library")
    half = min(n // 2, len(prose))
    chosen = rng.sample(prose, half) + rng.sample(code, min(n - half, len(code)))
    rng.shuffle(chosen)
    return chosen


def _docstrings(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    found = (ast.get_docstring(node) for node in nodes)
    return list(dict.fromkeys(d for d in found if d))


def _excerpts(source: str) -> list[str]:
    lines = source.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(("def ", "class "))]
    blocks = ("\n".join(lines[a:b]) for a, b in zip(starts, [*starts[1:], len(lines)], strict=True))
    return [textwrap.dedent(b).strip()[:MAX_CHARACTERS] for b in blocks if len(b) >= MIN_CHARACTERS]
