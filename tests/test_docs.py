"""What the documents name is there: links, commands, options, files, functions; and both READMEs say the same."""

import ast
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from paint_by_example.cli import COMMANDS
from paint_by_example.cli.arguments import UsageError, parse

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "paint_by_example"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
GROUPS = {  # commands of commands
    "evaluate": (["run"], ["score"], ["report"], ["fit-qs"], ["build-cocoee"]),
    "library": (["add"], ["search"], ["index"], ["list"], ["remove"]),
    "study": (["serve"], ["report"]),
}
OF_OTHERS = {
    f"--{name}"
    for names in (
        "config ckpt image_path mask_path reference_path outdir plms ddim_steps ddim_eta scale skip_grid",  # authors'
        "nproc-per-node nnodes node-rank master-addr master-port",  # torchrun
        "no-deps python-version only-binary head address python summary",  # pip, ray, pip-licenses
        "version",  # of pbe itself
        "noEmit allowJs checkJs strict target module moduleResolution",  # tsc
    )
    for name in names.split()
}


def prose(text: str) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def anchors(text: str) -> set[str]:
    """What links may name behind `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)", prose(text), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text(encoding="utf-8"))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_files_that_are_named_are_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for path in re.findall(
        r"(?<![\w/.-])(?:docs|runs|benchmarks|examples|tests|src)/[\w./-]*\w\.(?:md|sh|py|png|webp|js)", text
    ):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)`|^make ([a-z-]+)", text, re.M):
        assert f"\n{''.join(target)}:" in (ROOT / "Makefile").read_text(encoding="utf-8"), target


def commands(text: str) -> Iterator[list[str]]:
    """Those of `pbe` that stand in blocks of code and in `code`, but for what is left open with `...`."""
    blocks = [code for kind, code in re.findall(r"^```(\w*)\n(.*?)^```", text, re.S | re.M) if kind in ("", "sh")]
    blocks += re.findall(r"(?:^    .*\n)+", text, re.M)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
        if re.match(r"(?:\.venv/bin/)?pbe [a-z]+(?: |$)", line) and "..." not in line and "->" not in line:
            yield shlex.split(re.sub(r"\[(--.*?)\]", r"\1", line), comments=True)[1:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_commands_are_understood(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for name, *arguments in commands(text):
        assert name in COMMANDS, name
        try:
            parse(COMMANDS[name].options(), f"pbe {name}", arguments)
        except UsageError as error:
            pytest.fail(f"pbe {name} {shlex.join(arguments)}: {error}")
    for name in re.findall(r"`pbe ([a-z]\w*)", text):
        assert name in COMMANDS, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_python_blocks_import_what_is_there(document: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", document.read_text(encoding="utf-8"), re.S | re.M):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("paint_by_example"):
                home = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(home, alias.name)] == []


@pytest.fixture(scope="module")
def options() -> set[str]:
    """All that commands, benchmarks and recipes of ours take."""
    known: set[str] = set()
    for name, command in COMMANDS.items():
        for group in ((), *GROUPS.get(name, ())):
            help_text = io.StringIO()
            with contextlib.redirect_stdout(help_text):
                parse(command.options(), f"pbe {name}", [*group, "--help"])
            known |= set(re.findall(r"(?<![\w-])--[a-z][\w-]+", help_text.getvalue()))
    for file in ROOT.glob("benchmarks/*.py"):
        declared = members(members(ast.parse(file.read_text(encoding="utf-8")))["Options"])
        known |= {f"--{prefix}{name.replace('_', '-')}" for name in declared for prefix in ("", "no-")}
    return known


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_options_that_are_named_are_there(document: Path, options: set[str]) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", document.read_text(encoding="utf-8")))
    assert named - options - OF_OTHERS == set()


def members(tree: ast.AST) -> dict[str, ast.stmt]:
    """What a module or class defines, by name."""
    assert isinstance(tree, ast.Module | ast.ClassDef)
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            if isinstance(target, ast.Name):
                found[target.id] = node
    return found


def test_the_paper_map_names_what_is_there() -> None:
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+)\.([A-Za-z_.]+)`", text)
    assert len(named) > 40
    for module, path in named:
        if (ROOT / f"{module}.{path}").exists() or (PACKAGE / f"{module}.{path}").exists():  # a file
            continue
        inside: ast.AST = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
        for name in path.split("."):
            assert name in members(inside), f"{module}.{path}"
            inside = members(inside)[name]


def without_comments(block: str) -> str:
    return re.sub(r" +# .*", "", block)


def test_the_chinese_readme_says_the_same() -> None:
    english, chinese = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
    for pattern in (r"^```\w+\n.*?^```", r"^(#+) ", r"^  ([a-z_]+\.py|[a-z]+/) "):
        ours, theirs = (re.findall(pattern, text, re.S | re.M) for text in (english, chinese))
        assert [without_comments(block) for block in theirs] == [without_comments(block) for block in ours]
    figures = [sorted(re.findall(r"\d+(?:[.,]\d+)*%?", prose(text))) for text in (english, chinese)]
    assert figures[1] == figures[0]
    links = [set(re.findall(r"\]\(([^)]+)\)", text)) - {"README.md", "README.zh.md"} for text in (english, chinese)]
    assert links[1] == links[0]
