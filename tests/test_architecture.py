"""The house rules, read from the syntax of every module; `docs/design.md` is the picture of the layers.

Each rule is a function from a module to the list of what breaks it. Each has an example that it must catch, so that a
rule cannot quietly stop looking.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "saeaudit"
DESIGN = ROOT / "docs" / "design.md"

MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60
# "path" or "path:function" -> why it may be longer. An entry that is no longer needed fails the test.
LONGER: dict[str, str] = {
    "saeaudit.audit.claims:_detection": "three findings written out as data, with nothing to decide",
}
# Where `torch.load` may stand, and why it is safe there.
TORCH_LOAD: dict[str, str] = {
    "saeaudit.interop.torch_file": "weights_only=True: torch's restricted unpickler refuses everything but tensors",
}

IMPORTERS = {"import_module", "importlib.import_module", "__import__"}
VAGUE = {"util", "utils", "helper", "helpers", "common", "misc"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
HEAVY = {"transformers", "peft", "datasets", "accelerate", "bandit", "playwright"}


@dataclass(frozen=True)
class Module:
    """A module of the package: its dotted name and its text."""

    name: str
    text: str
    is_index: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def part(self) -> str:
        """The name that the layers know: `saeaudit.models.load` is part of `models`."""
        return part_of(self.name)


def part_of(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        is_index = parts[-1] == "__init__"
        found.append(Module(".".join(parts[:-1] if is_index else parts), path.read_text(encoding="utf-8"), is_index))
    return tuple(found)


@cache
def layers() -> dict[str, tuple[int, int]]:
    """Part -> (layer, group): parts joined by | in the picture are groups that never import each other."""
    block = DESIGN.read_text(encoding="utf-8").split("## Layers", 1)[1].split("```")[1]
    found = {}
    for line in block.strip().splitlines():
        match = re.fullmatch(r"(\d)  (.+?)(?: {3,}.*)?", line)
        assert match, f"docs/design.md: the layer line {line!r} cannot be read"
        for group, names in enumerate(match[2].split("|")):
            found |= dict.fromkeys(names.split(), (int(match[1]), group))
    return found


def imported(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of every import, at any depth; `from a import b` gives a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield from ((f"{origin}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in IMPORTERS and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value), node.lineno


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def wrong_imports(module: Module) -> list[str]:
    if module.part == "":
        return []  # the root index names the public functions of all layers, lazily
    mine = layers()[module.part]
    found = []
    for name, line in imported(module.tree):
        if name.startswith("."):
            found.append(f"{module.name}:{line} imports {name}; write the whole name")
        other = part_of(name) if name.startswith("saeaudit.") else ""
        if other not in layers() or other == module.part:
            continue
        theirs = layers()[other]
        if theirs[0] > mine[0] or (theirs[0] == mine[0] and theirs[1] != mine[1]):
            found.append(f"{module.name}:{line} (layer {mine[0]}) imports {other} (layer {theirs[0]})")
    return found


def vague_names(module: Module) -> list[str]:
    return [f"{module.name}: {part} says nothing" for part in module.name.split(".") if part.strip("_") in VAGUE]


def too_long(module: Module) -> list[str]:
    lengths = {module.name: (module.text.count("\n"), MAX_FILE_LINES)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lengths[f"{module.name}:{node.name}"] = (code_lines(node), MAX_FUNCTION_LINES)
    return [f"{key} has {n} lines, at most {most}" for key, (n, most) in lengths.items() if n > most]


def code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring: explaining is never punished."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def pickles(module: Module) -> list[str]:
    found = [f"{module.name}:{line} imports {n}" for n, line in imported(module.tree) if n.split(".")[0] in PICKLES]
    found += [f"{module.name}:{line} imports torch.load" for n, line in imported(module.tree) if n == "torch.load"]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
            found.append(f"{module.name}:{node.lineno} uses torch.load")
        trusting = isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "trust_remote_code")
        if trusting and ast.unparse(node.value) != "False":
            found.append(f"{module.name}:{node.value.lineno} passes {node.arg}")
    return [text for text in found if module.name not in TORCH_LOAD]


def runs_text(module: Module) -> list[str]:
    calls = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call)]
    return [f"{module.name}:{n.lineno} calls {called(n)}" for n in calls if called(n) in ("eval", "exec", "os.system")]


def prints(module: Module) -> list[str]:
    if module.part == "cli":
        return []
    calls = [n for n in ast.walk(module.tree) if isinstance(n, ast.Call)]
    return [f"{module.name}:{n.lineno} prints" for n in calls if called(n) in ("print", "sys.stdout.write")]


def early_heavy(module: Module) -> list[str]:
    """Heavy packages are imported inside the functions that need them (TYPE_CHECKING blocks are fine)."""
    top = ast.Module([n for n in module.tree.body if isinstance(n, ast.Import | ast.ImportFrom)], [])
    return [f"{module.name}:{line} imports {n}" for n, line in imported(top) if n.split(".")[0] in HEAVY]


def more_than_index(module: Module) -> list[str]:
    """A package's `__init__` holds a docstring, imports of its own modules and `__all__`, which names them all."""
    if not module.is_index or module.part == "":
        return []
    found, names, listed = [], [], []
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(module.name):
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            listed = ast.literal_eval(node.value)
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            found.append(f"{module.name}:{node.lineno} is more than an index")
    differing = sorted(set(names) ^ set(listed))
    return found + ([f"{module.name}: __all__ and the imports differ in {', '.join(differing)}"] if differing else [])


RULES: dict[Callable[[Module], list[str]], list[Module]] = {
    wrong_imports: [
        Module("saeaudit.models.x", "from saeaudit.report import render"),
        Module("saeaudit.metrics.x", "def f():\n    from saeaudit.training import train"),
        Module("saeaudit.detection.x", "if TYPE_CHECKING:\n    import saeaudit.recovery.search"),
        Module("saeaudit.errors", "from saeaudit import models"),
        Module("saeaudit.models.x", "from .sites import resolve_site"),
        Module("saeaudit.models.x", "importlib.import_module('saeaudit.cli.main')"),
    ],
    vague_names: [
        Module("saeaudit.models.utils", ""),
        Module("saeaudit.common.x", ""),
        Module("saeaudit._helpers", ""),
    ],
    too_long: [
        Module("saeaudit.models.x", "\n" * 301),
        Module("saeaudit.models.x", "class A:\n    def f(self):\n        pass\n" + "        pass\n" * 60),
    ],
    pickles: [
        Module("saeaudit.models.x", "def f():\n    import pickle"),
        Module("saeaudit.models.x", "from joblib import load"),
        Module("saeaudit.models.x", "torch.load(path, weights_only=True)"),
        Module("saeaudit.models.x", "from torch import load"),
        Module("saeaudit.models.x", "np.load(path, allow_pickle=True)"),
        Module("saeaudit.models.x", "AutoModel.from_pretrained(path, trust_remote_code=trust)"),
    ],
    runs_text: [Module("saeaudit.models.x", "eval(text)"), Module("saeaudit.models.x", "exec(text)")],
    prints: [Module("saeaudit.models.x", "print('x')")],
    early_heavy: [
        Module("saeaudit.models.x", "import transformers"),
        Module("saeaudit.x", "from peft import LoraConfig"),
    ],
    more_than_index: [
        Module("saeaudit.models", "x = 1", is_index=True),
        Module("saeaudit.models", "def f(): ...", is_index=True),
        Module("saeaudit.models", "from saeaudit.models.load import load_model\n__all__ = []", is_index=True),
        Module("saeaudit.models", "from saeaudit.dictionaries import build\n__all__ = ['build']", is_index=True),
    ],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule(rule):
    for example in RULES[rule]:
        assert rule(example), f"{rule.__name__} does not see what is wrong with {example.text[:60]!r}"
    broken = [text for module in modules() for text in rule(module)]
    allowed = LONGER if rule is too_long else {}
    unexplained = [text for text in broken if text.split(" ")[0] not in allowed]
    assert not unexplained, "\n" + "\n".join(unexplained)
    unneeded = allowed.keys() - {text.split(" ")[0] for text in broken}
    assert not unneeded, f"no longer needed in the list of exceptions: {unneeded}"


def test_every_part_has_a_layer():
    parts = {module.part for module in modules()} - {""}
    assert parts == set(layers()), "docs/design.md and src/saeaudit name different parts"


def test_the_picture_is_read_as_it_is_drawn():
    assert layers()["cli"][0] == max(layer for layer, _ in layers().values())
    assert layers()["errors"] == layers()["findings"], "parts of one layer without | may import each other"
    assert layers()["dictionaries"][0] == layers()["models"][0]
    assert layers()["dictionaries"] != layers()["models"]


@pytest.mark.parametrize(
    ("package", "foreign"),
    [("saeaudit", {"torch", "numpy", "pydantic"}), ("saeaudit.report", {"torch", "transformers", "scipy"})],
)
def test_importing_does_not_bring(package, foreign):
    names = [m.name for m in modules() if m.name == package or (part_of(package) and m.part == part_of(package))]
    script = f"import sys, {', '.join(names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert package in found
    assert not foreign & found


def test_the_numerical_layers_bring_only_torch():
    parts = ("dictionaries", "training", "metrics", "interop", "activations", "interventions")
    script = f"import sys, {', '.join(f'saeaudit.{part}' for part in parts)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert "torch" in found
    assert not {"transformers", "peft", "gguf", "datasets", "triton", "tensorboard", "sklearn"} & found


PRIVATE_ROOTS = ("work", "root", "tmp", r"home/\w+", r"Users/\w+", "mnt", "var/tmp")
MACHINE_PATH = re.compile(r"(?<![\w./~$}>-])/" + f"(?:{'|'.join(PRIVATE_ROOTS)})(?:/|\\b)")


def test_no_path_of_a_machine_in_any_file():
    assert MACHINE_PATH.search("open('/{}/x')".format("home/ada"))
    harmless = "layers/{0}/x and https://host/{1}/x and $ROOT/{0}/x".format("tmp", "work")
    assert not MACHINE_PATH.search(harmless)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in git.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name}:{n}: {line.strip()[:100]}" for n, line in enumerate(lines, 1) if MACHINE_PATH.search(line)]
    assert not found, "\n" + "\n".join(found)
