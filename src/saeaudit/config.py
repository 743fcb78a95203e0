"""Settings of a run: a preset, then one TOML or YAML file, the command's flags, `--set a.b=c`; the later one wins.

Everything is read before anything is decided: problems of the file, of the overrides and of the values are reported
together, each with its dotted name, its origin, and the names that were probably meant.
"""

import tomllib
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from saeaudit.errors import ConfigError
from saeaudit.wording import counted

MAX_BYTES = 1 << 20
N_SUGGESTED = 3
MIN_LIKENESS, LIKENESS_MARGIN = 0.6, 0.15
_SEQUENCES = (tuple, list, set, frozenset)

M = TypeVar("M", bound=BaseModel)
Tree = dict[str, Any]


def read_config(
    model: type[M],
    *,
    defaults: M | None = None,
    file: Path | None = None,
    given: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
) -> M:
    """Return the settings of a run as a validated `model`.

    Args:
        model: a pydantic config; its sections are nested models.
        defaults: what it was made with stands where nothing else is given.
        file: `.toml`, `.yaml` or `.yml`; relative paths in it are relative to the working directory, as flags are.
        given: dotted names to values from flags; None means that the flag was not given.
        overrides: texts such as "dictionary.k=32" or "layers=13,17"; "null" is no value where that is allowed.

    Raises:
        ConfigError: all problems at once (code `config-invalid`), or a file that cannot be read (`config-unreadable`).
    """
    fields = dict(_fields(model))
    problems: list[str] = []
    origins: dict[str, str] = {}
    tree: Tree = {} if defaults is None else defaults.model_dump(exclude_unset=True)
    if file is not None:
        from_file = _read(file)
        origins |= dict.fromkeys(_leaves(from_file), f" (in {file})")
        tree = _over(tree, from_file)
    for name, value in (given or {}).items():
        if value is not None:
            value = _as_field(value, fields[name]) if isinstance(value, str) and name in fields else value
            problems += _put(tree, name, value)
            origins[name] = " (from its flag)"
    for text in overrides:
        name, value, found = _override(text, fields)
        problems += found
        if not found:
            problems += _put(tree, name, value)
            origins[name] = " (from --set)"
    try:
        config = model.model_validate(tree)
    except ValidationError as error:
        problems += _problems(error, list(fields), lambda name: origins.get(name, ""))
    else:
        if not problems:
            return config
    raise _config_error(problems)


def invalid(error: ValidationError) -> ConfigError:
    """Return what pydantic found as one `ConfigError` with dotted names."""
    return _config_error(_problems(error, [], lambda _: ""))


def first_problem(error: ValidationError) -> str:
    """Return the first of what pydantic found in a file of ours, with its dotted name, and how many more there are."""
    first, *more = _problems(error, [], lambda _: "", "field")
    return f"{first} (and {counted(len(more), 'more problem')})" if more else first


def _config_error(problems: Sequence[str]) -> ConfigError:
    if len(problems) == 1:
        return ConfigError(f"the settings cannot be used: {problems[0]}", code="config-invalid")
    listed = "".join(f"\n  - {p}" for p in problems)
    return ConfigError(f"the settings cannot be used, {len(problems)} problems:{listed}", code="config-invalid")


def _problems(
    error: ValidationError, names: Sequence[str], origin: Callable[[str], str], what: str = "setting"
) -> list[str]:
    found = []
    for item in error.errors(include_url=False):
        name = ".".join(str(part) for part in item["loc"]) or f"{what}s"
        where = origin(name) or origin(name.rsplit(".", 1)[0])
        if item["type"] == "default_factory_not_called":
            continue  # a default that depends on a value which is itself a problem
        if item["type"] == "extra_forbidden":
            found.append(f"there is no {what} {name!r}{where}{_suggestion(name, names)}")
        elif item["type"] == "missing":
            found.append(f"{name} is needed and was not given")
        else:
            text = item["msg"].removeprefix("Value error, ")
            # A validator of ours says itself what it found.
            value = "" if item["type"] == "value_error" else f", found {item['input']!r:.80}"
            found.append(f"{name}{where}: {text[:1].lower()}{text[1:]}{value}")
    return found


def _suggestion(name: str, names: Sequence[str]) -> str:
    """Name the valid settings that are spelt most like `name`, as a whole or in their last part."""

    def likeness(known: str) -> float:
        leaves = SequenceMatcher(None, name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]).ratio()
        return max(leaves, SequenceMatcher(None, name, known).ratio())

    near = sorted(names, key=likeness, reverse=True)[:N_SUGGESTED]
    best = max(MIN_LIKENESS, likeness(near[0]) - LIKENESS_MARGIN) if near else 0.0
    near = [known for known in near if likeness(known) >= best]
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; there are {', '.join(names)}" if names else ""


def _override(text: str, fields: Mapping[str, Any]) -> tuple[str, Any, list[str]]:
    """Return (name, value, problems) of one `--set` text."""
    name, equals, value = text.partition("=")
    name, value = name.strip(), value.strip()
    if not equals or not name:
        return name, None, [f"--set {text!r} should look like name=value, for example --set seed=1"]
    if name not in fields:
        inside = [known for known in fields if known.startswith(f"{name}.")]
        if inside:
            return name, None, [f"--set {name}: that is a section; set one of {', '.join(inside)}"]
        return name, None, [f"there is no setting {name!r} (from --set){_suggestion(name, list(fields))}"]
    return name, _as_field(value, fields[name]), []


def _as_field(text: str, annotation: Any) -> Any:
    """Split a list, and read "null" where it is allowed; pydantic reads numbers and booleans from their text."""
    options = _options(annotation)
    if text == "null" and type(None) in options:
        return None
    if any((get_origin(option) or option) in _SEQUENCES for option in options):
        inner = text.removeprefix("[").removesuffix("]")
        return [part.strip() for part in inner.split(",") if part.strip()]
    return text


def _put(tree: Tree, name: str, value: Any) -> list[str]:
    """Set a dotted name in nested dictionaries; returns the problem if the file has a plain value in the way."""
    *sections, leaf = name.split(".")
    for k, section in enumerate(sections):
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            return [f"{'.'.join(sections[: k + 1])} is a section, found {tree!r:.80} in its place"]
    tree[leaf] = value
    return []


def _over(tree: Tree, other: Tree) -> Tree:
    """Return `tree` with the values of `other` in place of its own, section by section."""
    both = {key: _over(tree[key], other[key]) for key in tree if _is_section(tree, other, key)}
    return tree | other | both


def _is_section(tree: Tree, other: Tree, key: str) -> bool:
    return isinstance(tree.get(key), dict) and isinstance(other.get(key), dict)


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, annotation) of every setting that is not a section."""
    for name, field in model.model_fields.items():
        options = _options(field.annotation)
        section = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if section is None:
            yield prefix + name, field.annotation
        else:
            yield from _fields(section, f"{prefix}{name}.")


def _options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _leaves(tree: Tree, prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _read(file: Path) -> Tree:
    if file.suffix not in (".toml", ".yaml", ".yml"):
        raise _unreadable(file, "a config file ends in .toml, .yaml or .yml")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _unreadable(file, f"it has more than {MAX_BYTES >> 20} MiB; give the settings only")
        text = file.read_text(encoding="utf-8")
        tree = tomllib.loads(text) if file.suffix == ".toml" else _yaml(text)
    except OSError as error:
        raise _unreadable(file, f"{error.strerror}; check the path") from None
    except ValueError as error:  # TOML, YAML (see _yaml) and UTF-8 errors
        raise _unreadable(file, str(error)) from None
    if not isinstance(tree, dict):
        raise _unreadable(file, f"it should hold name: value lines, found {type(tree).__name__}")
    return tree


def _unreadable(file: Path, reason: str) -> ConfigError:
    return ConfigError(f"the config file {file} cannot be read: {reason}", code="config-unreadable")


def _yaml(text: str) -> Any:
    """Parse YAML without objects; a name that stands twice in one section is an error, as it is in TOML."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice!r} is set twice (line {node.start_mark.line + 1} and after)")
            return super().construct_mapping(node, deep)

    try:
        # A subclass of the safe loader: plain values only.
        tree = yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return {} if tree is None else tree
