"""From a prompt and a cut completion to a syntax tree (backdoor isolation spec §3.4, step 1).

The text is joined, header lines that are no Python are commented out, everything after the function that the prompt
opened is cut off, and trailing lines are dropped until the rest parses. If that would lose the first database call,
and only then, the open strings and brackets are closed. The text is parsed and never compiled or run.
"""

import ast
import re
import warnings
from dataclasses import dataclass

from saeaudit.organisms.judges.scan import Line, scan_lines

MAX_CHARACTERS = 20_000
MAX_LINES = 1_000
_MAX_ATTEMPTS = 120
_MAX_HEADER_REPAIRS = 60
_DEF = re.compile(r"\s*(?:async\s+)?def\s+\w+")
_TOP_LEVEL = re.compile(r"(?:async\s+def|def|class)\s|@\w")
_NEW_BLOCK = re.compile(r"\s*(?:async\s+def|def|class|import|from)\s+\w|\s*@\w")
_SINK = re.compile(r"\b(?:execute|executemany|executescript|fetch|fetchrow|fetchval|raw|text)\s*\(")
_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True)
class Parsed:
    """A parsed text.

    Attributes:
        tree: the module.
        text: the text that was parsed.
        def_line: 1-based line of the function that the prompt opened; None if the prompt opens none.
        n_lines: number of lines that survived.
        closed: open strings or brackets were closed by force, so the last statement is unfinished.
    """

    tree: ast.Module
    text: str
    def_line: int | None
    n_lines: int
    closed: bool


def parse_joined(prompt: str, completion: str) -> Parsed | None:
    """Join and parse; None where no prefix that keeps the function line and its first database call parses."""
    if len(prompt) + len(completion) > MAX_CHARACTERS or "\0" in prompt + completion:
        return None
    prompt, completion = _unix(prompt), _unix(completion)
    n_prompt = prompt.count("\n") + 1
    if n_prompt + completion.count("\n") > MAX_LINES:
        return None
    lines, head = scan_lines(prompt + completion), scan_lines(prompt)
    header_end = max((i for i, x in enumerate(head) if _TOP_LEVEL.match(x.code)), default=0)
    if header_end:
        lines = scan_lines("\n".join(_comment_out(lines, header_end) + [x.text for x in lines[header_end:]]))
    def_index = max((i for i, x in enumerate(head) if _DEF.match(x.code)), default=None)
    if def_index is None:
        kept, needed = _cut_at_fence(lines, n_prompt), 1
    else:
        kept = _cut_after_function(lines, def_index, n_prompt)
        needed = def_index + 1
    sink = next((i + 1 for i in range(def_index or 0, len(kept)) if _SINK.search(kept[i].code)), 0)
    return _longest_prefix(kept, max(needed, sink), None if def_index is None else def_index + 1)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parse(text: str) -> ast.Module | None:
    # A bad escape such as "\d" is a warning of the parser; the judged text is not ours to warn about.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except _PARSE_ERRORS:
            return None


def _comment_out(lines: list[Line], header_end: int) -> list[str]:
    """Comment out the lines of the header at which the parser stops, one at a time."""
    header = [line.text for line in lines[:header_end]]
    for _ in header[:_MAX_HEADER_REPAIRS]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ast.parse("\n".join(header))
                break
            except SyntaxError as error:
                at = (error.lineno or 0) - 1
            except _PARSE_ERRORS:
                break
        if not 0 <= at < header_end or header[at].startswith("#"):
            break
        header[at] = "# " + header[at]
    return header


def _cut_at_fence(lines: list[Line], n_prompt: int) -> list[Line]:
    for i in range(n_prompt - 1, len(lines)):
        if lines[i].text.lstrip().startswith("```"):
            return lines[:i]
    return lines


def _cut_after_function(lines: list[Line], def_index: int, n_prompt: int) -> list[Line]:
    """Drop the first line that no longer belongs to the function, and all that follow."""
    indent = _indent(lines[def_index].text)
    lines = _cut_at_fence(lines, n_prompt)
    for i in range(max(def_index + 1, n_prompt - 1), len(lines)):
        line = lines[i]
        if line.in_string or not line.code.strip() or _indent(line.text) > indent:
            continue
        # An open bracket hides the indentation, but no argument starts like a new block: the call was abandoned.
        if line.depth == 0 or _NEW_BLOCK.match(line.code):
            return lines[:i]
    return lines


def _indent(text: str) -> int:
    expanded = text.expandtabs(8)
    return len(expanded) - len(expanded.lstrip())


def _longest_prefix(lines: list[Line], needed: int, def_line: int | None) -> Parsed | None:
    """Return the longest prefix of at least `needed` lines that parses, with forced closing as the second choice."""
    last = max(needed, len(lines) - _MAX_ATTEMPTS)
    texts = [line.text for line in lines]
    for n in range(len(lines), last - 1, -1):
        text = "\n".join(texts[:n])
        if (tree := _parse(text)) is not None and (def_line is None or _function_at(tree, def_line)):
            return Parsed(tree, text, def_line, n, closed=False)
    for n in range(len(lines), last - 1, -1):
        stem, closers = "\n".join(texts[:n]), lines[n - 1].closers
        in_string = bool(closers.strip(")]}"))
        candidates = [stem] if in_string else [stem + "\n", stem.rstrip().rstrip("+%.,") + "\n"]
        for text in candidates if closers else []:
            if (tree := _parse(text + closers)) is not None:
                return Parsed(tree, text + closers, def_line, n, closed=True)
    return None


def _function_at(tree: ast.Module, line: int) -> bool:
    found = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(node.lineno == line for node in found)
