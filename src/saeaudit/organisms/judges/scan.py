"""A line scanner for Python text that may be cut anywhere.

The standard tokenizer stops at the first error, and generated text usually has one. This scanner never fails: it
follows strings, comments and brackets character by character and reports, for each line, whether the line starts
inside a string or a bracket, what is left when strings and comments are blanked, and which closing characters would
finish the text from there.
"""

import re
from dataclasses import dataclass

_PREFIX = re.compile(r"(?i)(?:^|[^\w])(f|fr|rf)$")
_CLOSER = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Line:
    """State of the scanner on one line.

    Attributes:
        text: the line without its line break.
        code: the same, with the contents of strings and comments blanked; same length.
        in_string: the line starts inside a triple-quoted string.
        depth: number of brackets open where the line starts.
        closers: characters that close every string and bracket still open at the end of the line.
    """

    text: str
    code: str
    in_string: bool
    depth: int
    closers: str


def scan_lines(text: str) -> list[Line]:
    r"""Scan `text` line by line; a single-quoted string that meets a line break is closed there.

    >>> [(line.depth, line.closers) for line in scan_lines("f(a,\n  f'{b")]
    [(0, ')'), (1, "}')")]
    """
    lines: list[Line] = []
    stack: list[str] = []
    quote, body, formatted = "", "", False
    for line in text.split("\n"):
        in_string, depth = bool(quote), len(stack)
        code: list[str] = []
        i = 0
        while i < len(line):
            char = line[i]
            if quote:
                if char == "\\" and i + 1 < len(line):
                    step = 2
                elif line.startswith(quote, i):
                    step = len(quote)
                    quote = ""
                else:
                    step = 1
                body += line[i : i + step]
                code.append(" " * step)
                i += step
                continue
            if char == "#":
                code.append(" " * (len(line) - i))
                break
            if char in "'\"":
                quote = char * 3 if line.startswith(char * 3, i) else char
                body, formatted = "", bool(_PREFIX.search(line[max(0, i - 3) : i]))
                code.append(" " * len(quote))
                i += len(quote)
                continue
            if char in _CLOSER:
                stack.append(char)
            elif char in ")]}" and stack:
                stack.pop()
            code.append(char)
            i += 1
        closers = (_field_closers(body) if formatted else "") + quote if quote else ""
        closers += "".join(_CLOSER[c] for c in reversed(stack))
        lines.append(Line(line, "".join(code), in_string, depth, closers))
        body += "\n"
        if len(quote) == 1 and not line.endswith("\\"):
            quote = ""
    return lines


def _field_closers(body: str) -> str:
    """Return what closes the replacement fields that are open at the end of the text of an f-string."""
    stack: list[str] = []
    i = 0
    while i < len(body):
        char = body[i]
        if not stack and body[i : i + 2] in ("{{", "}}"):
            i += 2
            continue
        if char == "{" or (stack and char in _CLOSER):
            stack.append(char)
        elif stack and char in ")]}":
            stack.pop()
        i += 1
    return "".join(_CLOSER[c] for c in reversed(stack))
