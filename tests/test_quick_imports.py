"""What short commands import, and what they leave out."""

import gc
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paint_by_example.cli import main
from paint_by_example.cli.imports import EMBEDDED_WITHOUT, quick_imports
from paint_by_example.record import read_record
from tests import tiny

RUN = """
import gc, importlib, sys
from paint_by_example.cli import main
assert main(sys.argv[2:]) == 0
without = sys.argv[1].split(",")
print("found:", sorted({name for name in sys.modules if name.partition(".")[0] in without}))
print("collects:", gc.isenabled(), "frozen:", gc.get_freeze_count() > 100_000)
print("there:", [importlib.import_module(name).__name__ for name in without])
"""


@pytest.fixture
def extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that is installed; diffusers has not been imported yet."""
    (tmp_path / "some_extra.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diffusers")
    yield "some_extra"
    sys.modules.pop("some_extra", None)
    gc.unfreeze()


def test_an_edit_with_the_embedded_model_imports_no_extras_it_does_not_use(tmp_path: Path) -> None:
    assert all(importlib.util.find_spec(name) for name in EMBEDDED_WITHOUT), "the extras are to be there, and left out"
    tiny.picture(60, 50, seed=1).save(tmp_path / "source.png")
    tiny.picture(40, 40, seed=2).save(tmp_path / "exemplar.png")
    given = ["edit", tmp_path / "source.png", "--exemplar", tmp_path / "exemplar.png", "--box", "10,10,40,40"]
    arguments = [f"{argument}" for argument in (*given, "--steps", 1, "--device", "cpu", "--output")]
    command = [sys.executable, "-c", RUN, ",".join(EMBEDDED_WITHOUT), *arguments, f"{tmp_path / 'without.png'}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "found: []" in ran.stdout
    assert "collects: True frozen: True" in ran.stdout
    assert f"there: {list(EMBEDDED_WITHOUT)}" in ran.stdout

    assert main([*arguments, f"{tmp_path / 'with.png'}"]) == 0  # here the tests have imported all there is
    assert (tmp_path / "without.png").read_bytes() == (tmp_path / "with.png").read_bytes()
    assert read_record(tmp_path / "without.png") == read_record(tmp_path / "with.png")


def test_what_is_left_out_is_there_again_afterwards(extra: str) -> None:
    with quick_imports([extra]):
        assert importlib.util.find_spec(extra) is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(extra)
        assert not gc.isenabled()
    assert gc.isenabled()
    assert importlib.import_module(extra)


def test_a_failed_import_leaves_nothing_behind(extra: str) -> None:
    with pytest.raises(ImportError, match="broken"), quick_imports([extra]):
        raise ImportError("broken")
    assert gc.isenabled()
    assert importlib.import_module(extra)


def test_what_was_imported_before_stays(extra: str) -> None:
    before = importlib.import_module(extra)
    with quick_imports([extra]):
        assert importlib.import_module(extra) is before
    assert importlib.import_module(extra) is before


def test_nothing_changes_where_diffusers_was_imported() -> None:
    assert "diffusers" in sys.modules
    frozen = gc.get_freeze_count()
    with quick_imports(["json"]):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
