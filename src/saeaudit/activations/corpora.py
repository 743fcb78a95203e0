"""Neutral text that every machine has: docstrings and code of the interpreter's own standard library.

Used where a user gives no corpus: to fit dictionaries on something besides the prompts, and to measure what an edit
costs on ordinary text. The documents depend on the Python version, so their hash is recorded with the numbers.
"""

import ast
import sysconfig
import textwrap
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from saeaudit.seeds import python_random

MIN_CHARACTERS = 300
MAX_CHARACTERS = 700
FEWEST = 64

_PACKAGES = ("asyncio", "email", "json", "logging", "unittest", "xml")


def standard_library_texts(n: int, *, seed: int) -> list[str]:
    """Return `n` texts, half prose (docstrings), half code, drawn from the standard library without repetition.

    Each has 300 to 700 characters, give or take surrounding white space. Files are visited in random order until they
    hold twice as many texts as are needed. Fewer than `n` are returned where the library has fewer (some thousands),
    none where it is not installed as source files.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(root.glob("*.py"))
    files += sorted(path for package in _PACKAGES for path in (root / package).rglob("*.py"))
    rng = python_random(seed, "standard-library")
    rng.shuffle(files)
    prose: dict[str, None] = {}
    code: dict[str, None] = {}
    for path in files:
        if min(len(prose), len(code)) >= max(n, FEWEST):
            break
        found = _texts(path)
        prose |= dict.fromkeys(found.prose)
        code |= dict.fromkeys(found.code)
    half = min(n // 2, len(prose))
    chosen = rng.sample(list(prose), half) + rng.sample(list(code), min(n - half, len(code)))
    rng.shuffle(chosen)
    return chosen


class _Texts(NamedTuple):
    prose: tuple[str, ...]
    code: tuple[str, ...]


@cache
def _texts(path: Path) -> _Texts:
    source = path.read_text(encoding="utf-8", errors="replace")
    return _Texts(tuple(_docstrings(source)), tuple(_excerpts(source)))


def _docstrings(source: str) -> list[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    found = (ast.get_docstring(node) for node in nodes)
    return [d[:MAX_CHARACTERS] for d in found if d and len(d) >= MIN_CHARACTERS]


def _excerpts(source: str) -> list[str]:
    lines = source.splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith(("def ", "class "))]
    blocks = ("\n".join(lines[a:b]) for a, b in pairwise([*starts, len(lines)]))
    return [textwrap.dedent(b).strip()[:MAX_CHARACTERS] for b in blocks if len(b) >= MIN_CHARACTERS]
