"""Our compat modes against their ancestors: what each has made of tiny random weights, stored in tests/data.

`make oracle` makes diffusers' results anew, in an environment of its own, and prints all differences.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.oracle.compare import ANCESTORS, limit, load, ours
from tests.oracle.edits import Results, difference

STORED = {name: ancestor.stored() for name, ancestor in ANCESTORS.items()}
EDITS = [(name, edit) for name, ancestor in ANCESTORS.items() for edit in ancestor.edits]
SINGLE = [
    (name, single) for name, stored in STORED.items() for single in stored if single.startswith(("part", "solver"))
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny model of each ancestor's, in the layout it has them in."""
    return {name: ancestor.model(tmp_path_factory.mktemp(name)) for name, ancestor in ANCESTORS.items()}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Any]:
    """Each model, loaded to behave as the ancestor. Not to be changed."""
    return {name: load(folders[name], name) for name in ANCESTORS}


def gaps(found: Results, theirs: Results) -> dict[str, float]:
    """How far apart all that both have is, in the order in which it arises, so that the first fault comes first."""
    return {name: difference(value, theirs[name]).relative for name, value in found.items() if name in theirs}


@pytest.mark.parametrize(("name", "single"), SINGLE)
def test_each_part_by_itself(name: str, single: str, loaded: dict[str, Any]) -> None:
    found = gaps(ours(loaded[name], ANCESTORS[name], single, STORED[name]), STORED[name])
    assert list(found) == [single]
    assert found[single] <= limit(single)


@pytest.mark.parametrize(("name", "edit"), EDITS)
def test_whole_edits(name: str, edit: str, loaded: dict[str, Any]) -> None:
    """What the U-Net is given at first - noise, masked source, mask, condition - and what comes out."""
    found = gaps(ours(loaded[name], ANCESTORS[name], edit, STORED[name]), STORED[name])
    assert len(found) == 5 + ANCESTORS[name].edits[edit].kept
    assert {what: gap for what, gap in found.items() if not gap <= limit(what)} == {}


@pytest.mark.parametrize(
    ("name", "edit", "wrong", "differs"),
    [
        ("diffusers", "pndm", "original", {"noise", "masked source", "mask", "condition", "z_0"}),
        ("diffusers", "pndm, scale below 1", "original", {"noise", "masked source", "mask", "condition", "z_0"}),
        ("diffusers", "pndm", None, {"masked source", "mask", "condition", "z_0"}),
        ("original", "pndm", "diffusers", {"noise", "masked source", "mask", "condition", "z_0"}),
        ("original", "pndm", None, {"noise", "masked source", "mask", "z_0"}),
    ],
)
def test_another_mode_is_told_apart(
    name: str, edit: str, wrong: str | None, differs: set[str], folders: dict[str, Path]
) -> None:
    """The comparison can fail: what the modes do differently is far beyond the limits."""
    found = gaps(ours(load(folders[name], wrong), ANCESTORS[name], edit, STORED[name]), STORED[name])
    far = {what.rpartition("/")[2] for what, gap in found.items() if gap > 0.01}
    assert far == differs
    assert {what for what, gap in found.items() if what.rpartition("/")[2] not in far and gap > limit(what)} == set()
