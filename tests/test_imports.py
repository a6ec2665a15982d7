"""Who may import whom, and what the package shows."""

import ast
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import paint_by_example

PACKAGE = "paint_by_example"
ROOT = Path(paint_by_example.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module imports from lower rows and, where it is a folder, from its own. `__init__` is above all since it shows them.
ROWS = (
    {"errors"},
    {"images", "efficientnet", "weights", "state", "processes", "fingerprint", "memory", "harmonise"},
    {"conditioning", "attention", "activations", "autoencoder", "crops", "ldm", "compat", "guidance", "structure"},
    {"source_encoder", "sampling", "batching", "data", "strip", "controlnet", "alignment"},
    {"layout", "prior", "network", "record", "switches", "int8", "dial"},
    {"compiled", "thumbnail"},
    {"calibration"},
    {"checkpoint", "inputs", "settings", "presets", "pose"},
    {"parts", "canvas"},
    {"painter"},
    {"edit"},
    {"pipeline"},
    {"conversion", "bench"},
    {"objective", "learner", "evaluation"},
    {"batches", "model_card", "plan"},
    {"held_out"},
    {"library"},
    {"training", "batch", "embedded"},
    {"ablation", "distillation"},
    {"server"},
    {"cli"},
    {"__init__", "__main__"},
)
ROW = {module: row for row, modules in enumerate(ROWS) for module in modules}

FORBIDDEN = {"util", "utils", "common", "helper", "helpers", "base", "core", "misc", "manager", "registry"}


def module_of(file: Path, root: Path = ROOT) -> str:
    """The module or folder directly under the package that a file belongs to."""
    return file.relative_to(root).parts[0].removesuffix(".py")


def imported(source: str, package: str) -> Iterator[str]:
    """Modules of this package that some code imports, at the top or within functions, wherever it is written."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            home = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module or ""
            # `from paint_by_example import x` may name a module, `from paint_by_example.images import x` a thing in it.
            names = [f"{home}.{alias.name}" for alias in node.names] if home == PACKAGE else [home]
        for name in names:
            first, _, rest = name.partition(".")
            module = rest.split(".")[0]
            if first == PACKAGE and module != "__version__":  # a constant of `__init__`, there without importing more
                yield module if module in ROW else "__init__"


def upward(source: str, module: str, package: str = PACKAGE) -> list[str]:
    """Imports that break the rule."""
    return [other for other in imported(source, package) if other != module and ROW[other] >= ROW[module]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_downwards(file: Path) -> None:
    module = module_of(file)
    assert module in ROW, f"{module} has no row yet: give it one in ROWS"
    package = ".".join((PACKAGE, *file.relative_to(ROOT).parts[:-1]))
    assert upward(file.read_text(encoding="utf-8"), module, package) == []


@pytest.mark.parametrize(
    ("source", "module", "expected"),
    [
        ("from .pipeline import load_pipeline", "conditioning", ["pipeline"]),
        ("def f():\n    from . import cli", "training", ["cli"]),
        ("import paint_by_example.server.app", "images", ["server"]),
        ("from .sampling import denoise", "data", ["sampling"]),
        ("from . import load_pipeline", "training", ["__init__"]),
        ("import torch\nfrom .errors import UserError\nfrom . import __version__, images", "training", []),
    ],
)
def test_the_rule_finds_what_breaks_it(source: str, module: str, expected: list[str]) -> None:
    assert upward(source, module) == expected


def test_imports_within_a_folder_are_its_own() -> None:
    assert upward("from .masks import random_mask\nfrom ..errors import DataError", "data", f"{PACKAGE}.data") == []
    assert upward("from ..pipeline import load_pipeline", "data", f"{PACKAGE}.data") == ["pipeline"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_of_modules_say_what_is_inside(file: Path) -> None:
    words = {word for part in file.relative_to(ROOT).with_suffix("").parts for word in part.split("_")}
    assert not words & FORBIDDEN


def test_all_is_what_is_shown() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        (alias.name, node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names
    }
    assert typed == set(paint_by_example._HOMES.items())
    assert set(paint_by_example.__all__) == set(paint_by_example._HOMES) | {"__version__"}
    assert set(paint_by_example.__all__) <= set(dir(paint_by_example))


@pytest.mark.parametrize("name", paint_by_example.__all__)
def test_what_is_shown_is_there(name: str) -> None:
    assert getattr(paint_by_example, name).__name__ == name if name != "__version__" else paint_by_example.__version__


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = paint_by_example.nothing
