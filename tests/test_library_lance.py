"""A library kept by LanceDB: the same commands do the same as on one in a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paint_by_example import PaintByExamplePipeline
from paint_by_example.cli import main
from paint_by_example.errors import DataError, ModelError
from paint_by_example.library import (
    Added,
    Encoder,
    Hole,
    Library,
    TextEncoder,
    add_pictures,
    encode,
    find_exemplars,
    find_words,
    make_index,
    open_library,
    open_search,
)
from paint_by_example.library.entry import NewPicture
from paint_by_example.library.lance import LanceLibrary, is_lance
from paint_by_example.server.library import Exemplars
from tests import tiny
from tests.test_library_text import save_clip

lancedb = pytest.importorskip("lancedb", reason="needs the extra library")


@pytest.fixture(scope="module")
def painter() -> PaintByExamplePipeline:
    """Not to be changed."""
    return tiny.embedded_pipeline()


def pictures(folder: Path) -> Path:
    (folder / "below").mkdir(parents=True)
    for number in range(6):
        name = f"below/{number}.png" if number > 3 else f"{number}.png"
        tiny.picture(30 + 5 * number, 30, seed=number).save(folder / name)
    return folder


def content(place: Path) -> tuple[list[Any], ...]:
    """All that a library holds."""
    with open_library(place) as library:
        entries = list(library.entries())
        rows = [(library.feature(one.id).tolist(), library.thumbnail(one.id)) for one in entries]
        lists: list[list[Any]] = [library.broken(), library.tags(), library.missing(), sorted(library.tagged(["red"]))]
        assert list(library.entries([one.id for one in entries])) == entries
        return [*entries], rows, *lists


def test_what_is_added_moved_removed_and_broken_is_as_in_a_folder(
    tmp_path: Path, painter: PaintByExamplePipeline
) -> None:
    folder = pictures(tmp_path / "pictures")
    both = (tmp_path / "library", tmp_path / "library.lance")

    def add(*places: Path, **options: Any) -> Added:
        found = [add_pictures(one, painter, places, **options) for one in both]
        assert found[0] == found[1]
        assert content(both[0]) == content(both[1])
        return found[1]

    def change(what: Callable[[Library], object]) -> None:
        for one in both:
            with open_library(one) as library:
                what(library)
        assert content(both[0]) == content(both[1])

    assert add(folder) == Added(added=6)
    assert add(folder / "below", tags=("red",), licence="CC0") == Added(known=2)
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "1.png").rename(folder / "elsewhere.png")
    (folder / "2.png").unlink()
    (folder / "bad.png").write_bytes(b"no picture")
    assert add(folder) == Added(known=4, duplicates=1, moved=1, missing=1, broken=1)
    tiny.picture(50, 50, seed=9).save(folder / "0.png")
    (folder / "bad.png").unlink()
    assert add(folder) == Added(added=1, known=5)
    change(lambda library: library.remove([6, 3]))
    assert add(folder).added == 2  # under new numbers
    change(lambda library: library.remove(library.missing()))


def test_what_a_kill_leaves_is_mended_by_adding_again(
    tmp_path: Path, painter: PaintByExamplePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, both = pictures(tmp_path / "pictures"), (tmp_path / "library", tmp_path / "library.lance")
    add_pictures(both[0], painter, [folder])
    with open_library(both[1], Encoder.of(painter)), monkeypatch.context() as broken:
        broken.setattr(LanceLibrary, "note", lambda *_: pytest.fail("killed before the last write"))
        with pytest.raises(pytest.fail.Exception):
            add_pictures(both[1], painter, [folder])
    tiny.picture(70, 30, seed=8).save(folder / "8.png")
    for place in both:
        assert add_pictures(place, painter, [folder]) == Added(known=6, added=1)
    assert content(both[0]) == content(both[1])


def test_searches_find_what_an_exact_search_finds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((1500, 16)) + 3).astype(np.float32)
    aspects = np.exp(0.5 * rng.standard_normal(1500))
    encoder = Encoder("x", 16, "x", None)
    for place in (tmp_path / "library", tmp_path / "library.lance"):
        new = [NewPicture(f"{n:032x}", 40, 30, float(aspects[n]), (0.1, 0.2, 0.3), b"") for n in range(1500)]
        with open_library(place, encoder) as library, library.writing():
            numbers = library.append(new, list(features))
            library.rows.executemany("insert into files values (?, ?, 1, 1)", [(f"{n}.png", n) for n in numbers])
            library.rows.executemany("insert into tags values ('it''s', ?)", [(n,) for n in numbers if n % 3 == 0])
            library.commit()
    with open_library(tmp_path / "library") as folder, open_library(tmp_path / "library.lance") as kept:
        assert isinstance(kept, LanceLibrary)
        exact, search = open_search(folder), open_search(kept)

        def agree(expected: list[Any], found: list[Any], least: float) -> None:
            assert len(found) == len(expected)
            same = {one.entry.id for one in expected} & {one.entry.id for one in found}
            assert len(same) >= least * len(expected)
            assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)

        assert (exact.total(), exact.total(["it's"])) == (search.total(), search.total(["it's"])) == (1500, 500)
        assert exact.browse(7, ["it's"], 5) == search.browse(7, ["it's"], 5)
        for indexed in (False, True):
            if indexed:
                assert make_index(kept) == 1500
                search = open_search(kept)
            for number in range(10):
                query = features[number] + 0.3 * rng.standard_normal(16)
                agree(exact.nearest(query, 10), search.nearest(query, 10), 0.9)
                agree(exact.nearest(query, 10, ["it's"]), search.nearest(query, 10, ["it's"]), 0.9)
                hole = Hole(1.4, 50, 0.5)
                agree(exact.fitting(hole, 10), search.fitting(hole, 10), 1)
                agree(exact.fitting(hole, 10, query), search.fitting(hole, 10, query), 0.9)
                best, found = exact.nearest(query, 1)[0], search.nearest(query, 1)[0]
                assert found.likeness == pytest.approx(best.likeness, abs=1e-6)


def test_words_find_pictures_there_too(tmp_path: Path, painter: PaintByExamplePipeline) -> None:
    folder, encoder = pictures(tmp_path / "pictures"), TextEncoder(str(save_clip(tmp_path / "clip", 0)))
    both = (tmp_path / "library", tmp_path / "library.lance")
    scores = []
    for place in both:
        add_pictures(place, painter, [folder])
        add_pictures(place, painter, [folder / "below"], text=encoder)
        with open_library(place) as library:
            assert library.wordless() == {0, 1, 2, 3}
        assert add_pictures(place, painter, [folder], text=encoder) == Added(known=6)
        with open_library(place) as library:
            found = find_exemplars(library, 4, words=find_words(library, "chair", encoder))
            scores.append([(one.entry.id, pytest.approx(one.score, abs=1e-5)) for one in found])
    assert scores[0] == scores[1]


def test_an_exemplar_is_the_same_to_the_last_bit_and_the_encoder_is_checked(
    tmp_path: Path, painter: PaintByExamplePipeline, models: dict[str, Path]
) -> None:
    folder, place = pictures(tmp_path / "pictures"), tmp_path / "library.lance"
    add_pictures(place, painter, [folder])
    with open_library(place) as library:
        entry = next(library.entries([5]))
        exemplar = library.exemplar(entry)
        np.testing.assert_array_equal(exemplar.features.numpy(), encode(painter, tiny.picture(55, 30, seed=5)))
        with pytest.raises(DataError, match="at least 256 pictures"):
            make_index(library)
    with pytest.raises(ModelError, match="was made by the exemplar encoder"):
        open_library(place, Encoder("other", 16, "other", None))
    with pytest.raises(DataError, match="there is no library in"):
        open_library(tmp_path / "none.lance")


def test_the_command(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert is_lance("s3://bucket/exemplars")
    assert not is_lance("library")
    folder, place = pictures(tmp_path / "pictures"), ["--library", str(tmp_path / "library.lance")]
    assert main(["library", "add", str(folder), "--model", str(models["embedded"]), *place, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 6
    assert main(["library", "search", "--like", str(folder / "3.png"), "--top", "1", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["paths"] == [str(folder / "3.png")]
    given = ["edit", str(folder / "0.png"), "--box", "2,2,20,20", "--steps", "2", "--output", str(tmp_path / "out.png")]
    assert main([*given, "--exemplar-from", place[1], "--like", str(folder / "3.png"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exemplar"] == str(folder / "3.png")
    served = Exemplars(place[1])
    assert [one.id for one in served.browse([], 4, 2).pictures] == [4, 5]
    assert served.rank(served.like_one(3, []), [], 0, 1).pictures[0].id == 3
    assert served.picture(3)[0] == (folder / "3.png").read_bytes()
    assert main(["library", "remove", str(folder / "below"), *place]) == 0
    assert served.browse([], 0, 9).total == 4
    assert capsys.readouterr().out == "removed 2\n"
