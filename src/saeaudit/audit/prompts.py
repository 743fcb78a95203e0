"""Prompts and corpora of the user: JSON lines with `text` and optional `group`, `class`, `id`, `span`; or plain text.

`group` is a template identity: splits are disjoint by it. `class` names a kind of benign prompt (look-alikes, say) for
which a false-positive rate of its own is reported. Every problem of a file is reported at once, with line numbers.
"""

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saeaudit.errors import InputError

MAX_BYTES = 256 << 20
MAX_PROBLEMS = 10
_KEYS = {"text", "group", "class", "id", "span"}


@dataclass(frozen=True)
class Prompt:
    """One prompt of the user.

    Attributes:
        prompt_id: unique in its file; line number if the file gives none.
        text: not empty.
        is_trigger: whether it stands in the file of trigger examples.
        group: template identity, or None if the file gives none.
        klass: kind of prompt for per-class rates; "trigger" or "benign" if the file gives none.
        span: characters of the trigger, if the file says so.
    """

    prompt_id: str
    text: str
    is_trigger: bool
    group: str | None
    klass: str
    span: tuple[int, int] | None


def read_prompts(path: Path, *, is_trigger: bool) -> list[Prompt]:
    """Read a JSON lines file of prompts.

    Raises:
        InputError: missing, no file, too large, not UTF-8, not JSON lines, no `text`, empty text, or no line at all.
    """
    kind = "trigger" if is_trigger else "benign"
    prompts: list[Prompt] = []
    problems: list[str] = []
    # Not splitlines(): JSON may hold U+2028 and U+0085, which it takes for ends of lines.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prompts.append(_parse(line, f"{kind}-{number}", kind, is_trigger=is_trigger))
        except ValueError as problem:
            problems.append(f"line {number}: {problem}")
    if problems:
        shown = "; ".join(problems[:MAX_PROBLEMS])
        more = f"; and {len(problems) - MAX_PROBLEMS} more" if len(problems) > MAX_PROBLEMS else ""
        raise InputError(
            f'{path} should hold one JSON object with "text" a line, but {shown}{more}', code="prompts-invalid"
        )
    if not prompts:
        raise InputError(f'{path} holds no prompts; write one JSON object with "text" a line', code="prompts-empty")
    ids = [p.prompt_id for p in prompts]
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise InputError(f"{path} has two prompts with the id {twice!r}; ids must be unique", code="duplicate-id")
    return prompts


def read_corpus(path: Path) -> list[str]:
    """Read a corpus: JSON lines with `text` (`.jsonl`), or plain text in which blank lines part documents.

    Raises:
        InputError: missing, no file, too large, not UTF-8, or empty.
    """
    if path.suffix in (".jsonl", ".ndjson"):
        return [p.text for p in read_prompts(path, is_trigger=False)]
    documents = [block.strip() for block in _read(path).split("\n\n")]
    documents = [d for d in documents if d]
    if not documents:
        raise InputError(f"the corpus {path} is empty; give a text file or JSON lines with text", code="empty-corpus")
    return documents


def _read(path: Path) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            kind = "a directory" if path.is_dir() else "no regular file, and it is read more than once"
            raise InputError(f"{path} is {kind}; give the path of a file", code="not-a-file")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(
                f"{path} has {size >> 20} MiB, at most {MAX_BYTES >> 20} are read; give a smaller sample",
                code="file-too-large",
            )
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path} was asked for, but there is no such file", code="file-missing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", code="file-unreadable") from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start} is {error.object[error.start]:#04x}); convert it first, for "
            "example with iconv -t utf-8",
            code="not-utf8",
        ) from None


def _parse(line: str, default_id: str, kind: str, *, is_trigger: bool) -> Prompt:
    try:
        value: Any = json.loads(line)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object was expected, found {type(value).__name__}")
    unknown = sorted(value.keys() - _KEYS)
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r} (known: {', '.join(sorted(_KEYS))})")
    text = value.get("text")
    if not isinstance(text, str):
        raise ValueError('no string under "text"')
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("the text holds half of a surrogate pair, which is no character")
    if not text.strip():
        raise ValueError("the text is empty")
    span = value.get("span")
    if span is not None and not (
        isinstance(span, list)
        and len(span) == 2
        and all(type(s) is int for s in span)
        and 0 <= span[0] < span[1] <= len(text)
    ):
        raise ValueError(f"span {span!r} should be [start, end) in characters of the text")
    named = {key: value[key] for key in ("id", "group", "class") if value.get(key) is not None}
    wrong = next((key for key, name in named.items() if not isinstance(name, str | int)), None)
    if wrong is not None:
        raise ValueError(f"{wrong!r} should be a string, found {type(named[wrong]).__name__}")
    return Prompt(
        prompt_id=str(named.get("id", default_id)),
        text=text,
        is_trigger=is_trigger,
        group=str(named["group"]) if "group" in named else None,
        klass=str(named.get("class", kind)),
        span=None if span is None else (span[0], span[1]),
    )
