"""The exemplar library: what is added, found and removed, what a kill leaves, and edits from it."""

import fcntl
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from paint_by_example import PaintByExamplePipeline
from paint_by_example.cli import main
from paint_by_example.errors import DataError, ModelError, PictureError
from paint_by_example.inputs import Encoded
from paint_by_example.library import (
    Added,
    Encoder,
    Hole,
    Library,
    Search,
    add_pictures,
    encode,
    find_exemplars,
    make_index,
)
from paint_by_example.library.adding import describe
from paint_by_example.library.entry import NewPicture
from paint_by_example.library.index import empty_graph
from paint_by_example.library.searching import FIRST_PASS, quickest, rounding
from tests import tiny

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_library"])


def pictures(folder: Path, count: int = 4) -> Path:
    """Pictures of noise, the last in a folder of its own."""
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        place = folder / "below" if number == count - 1 else folder
        tiny.picture(40 + number, 30, seed=number).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def painter() -> PaintByExamplePipeline:
    """Not to be changed."""
    return tiny.embedded_pipeline()


@pytest.fixture
def kept(tmp_path: Path, painter: PaintByExamplePipeline) -> tuple[Path, Path]:
    """Pictures, and a library of them."""
    folder = pictures(tmp_path / "pictures")
    add_pictures(tmp_path / "library", painter, [folder])
    return folder, tmp_path / "library"


# --- adding -----------------------------------------------------------------------------------------------------------


def test_features_are_those_of_each_picture_alone(tmp_path: Path, pipeline: PaintByExamplePipeline) -> None:
    folder = pictures(tmp_path / "pictures")
    assert add_pictures(tmp_path / "library", pipeline, [folder]) == Added(added=4)
    with Library(tmp_path / "library") as library:
        matrix = library.features()
        for entry in library.entries():
            picture = Image.open(entry.paths[0])
            assert (entry.width, entry.height) == picture.size
            assert np.array_equal(matrix[entry.id], encode(pipeline, picture))
            assert library.thumbnail(entry.id) is not None


def test_adding_again_encodes_nothing(
    kept: tuple[Path, Path], painter: PaintByExamplePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, library = kept
    monkeypatch.setattr("paint_by_example.library.adding.encode", lambda *_: pytest.fail("encoded again"))
    assert add_pictures(library, painter, [folder]) == Added(known=4)
    shutil.copy(folder / "0.png", folder / "copy.png")
    (folder / "1.png").rename(folder / "elsewhere.png")
    (folder / "2.png").unlink()
    Image.open(folder / "below" / "3.png").save(folder / "3.tif")  # the same pixels in another format
    assert add_pictures(library, painter, [folder]) == Added(known=2, duplicates=2, moved=1, missing=1)
    with Library(library) as opened:
        names = [[Path(path).name for path in entry.paths] for entry in opened.entries()]
        assert names == [["0.png", "copy.png"], ["elsewhere.png"], [], ["3.tif", "3.png"]]
        assert opened.missing() == [2]
    tiny.picture(42, 30, seed=2).save(folder / "back.png")
    assert add_pictures(library, painter, [folder]).known == 5 + 1


def test_a_changed_file_is_another_picture(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    tiny.picture(50, 50, seed=9).save(folder / "0.png")
    assert add_pictures(library, painter, [folder]) == Added(added=1, known=3)
    with Library(library) as opened:
        entries = {entry.id: entry for entry in opened.entries()}
        assert entries[0].paths == ()
        assert entries[4].paths == (str(folder / "0.png"),)


def test_broken_files_are_listed_and_tried_again_when_they_change(
    kept: tuple[Path, Path], painter: PaintByExamplePipeline
) -> None:
    folder, library = kept
    (folder / "bad.jpg").write_bytes(b"no picture")
    assert add_pictures(library, painter, [folder]) == Added(known=4, broken=1)
    assert add_pictures(library, painter, [folder]) == Added(known=4, broken=1)
    with Library(library) as opened:
        ((path, reason),) = opened.broken()
    assert path.endswith("bad.jpg")
    assert "not a picture" in reason
    tiny.picture(20, 20, seed=7).save(folder / "bad.jpg")
    assert add_pictures(library, painter, [folder]) == Added(known=4, added=1)
    with Library(library) as opened:
        assert opened.broken() == []


def test_names_that_are_not_utf8_are_broken(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    shutil.copy(os.fsencode(folder / "0.png"), os.fsencode(folder) + b"/\xff.png")
    assert add_pictures(library, painter, [folder]) == Added(known=4, broken=1)


def test_tags_and_licences_are_of_a_place(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    add_pictures(library, painter, [folder / "below"], tags=("red", "chair"), licence="CC0")
    add_pictures(library, painter, [folder], tags=("chair",))
    with Library(library) as opened:
        entries = list(opened.entries())
        assert [entry.tags for entry in entries] == [("chair",)] * 3 + [("chair", "red")]
        assert [entry.licence for entry in entries] == [None] * 3 + ["CC0"]
        assert opened.tagged(["chair", "red"]) == {3}


def test_a_library_belongs_to_an_encoder(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    tuned = tiny.embedded_pipeline()
    with torch.no_grad():
        tuned.unet.conv_in.weight.add_(1)
        tuned.image_encoder.proj_out.weight.add_(1)
    add_pictures(library, tuned, [folder])  # its frozen part is the same
    with torch.no_grad():
        tuned.image_encoder.components.weight.add_(1)
    with pytest.raises(ModelError, match="was made by the exemplar encoder of"):
        add_pictures(library, tuned, [folder])
    cutting = tiny.embedded_pipeline()
    cutting.compat = "diffusers"
    with pytest.raises(ModelError, match="was made by the exemplar encoder of"):
        add_pictures(library, cutting, [folder])


# --- interruptions ----------------------------------------------------------------------------------------------------


def add_slowly(library: Path, folder: Path) -> None:
    """A process to be killed: it commits all the time."""
    import paint_by_example.library.adding as adding

    adding.SECONDS = 0.0
    add_pictures(library, tiny.embedded_pipeline(), [folder])


@pytest.mark.chaos
def test_what_a_kill_leaves_is_whole(tmp_path: Path, painter: PaintByExamplePipeline) -> None:
    folder = pictures(tmp_path / "pictures", 60)
    add_pictures(tmp_path / "straight", painter, [folder])
    chance = random.Random(1)
    kills = 0
    for _ in range(5):
        process = PROCESSES.Process(target=add_slowly, args=(tmp_path / "library", folder))
        process.start()
        until = time.monotonic() + 20
        before = rows_of(tmp_path / "library")
        while process.is_alive() and time.monotonic() < until and rows_of(tmp_path / "library") == before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills
    add_pictures(tmp_path / "library", painter, [folder])
    with Library(tmp_path / "library") as found, Library(tmp_path / "straight") as straight:
        assert found.count == 60
        assert np.array_equal(found.features(), straight.features())
        assert list(found.entries()) == list(straight.entries())


def rows_of(library: Path) -> int:
    path = library / "features.f32"
    return path.stat().st_size if path.exists() else 0


def test_rows_beyond_those_that_count_are_written_over(
    kept: tuple[Path, Path], painter: PaintByExamplePipeline
) -> None:
    folder, library = kept
    with (library / "features.f32").open("ab") as file:
        file.write(b"half a row")
    tiny.picture(20, 20, seed=7).save(folder / "new.png")
    add_pictures(library, painter, [folder])
    with Library(library) as opened:
        assert np.array_equal(opened.features()[4], encode(painter, Image.open(folder / "new.png")))


def test_a_matrix_that_is_cut_short_is_noticed(kept: tuple[Path, Path]) -> None:
    _, library = kept
    os.truncate(library / "features.f32", 100)
    with Library(library) as opened, pytest.raises(DataError, match="cut short"):
        opened.features()


def test_two_writers_are_one_too_many(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    with (library / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is writing"):
            add_pictures(library, painter, [folder])
        with Library(library) as opened:  # who reads does not mind
            assert len(list(opened.entries())) == 4


# --- searching --------------------------------------------------------------------------------------------------------


def made_up(folder: Path, painter: PaintByExamplePipeline, rows: np.ndarray) -> Path:
    """A library of given features."""
    encoder = Encoder("0", rows.shape[1], "none", None)
    with Library(folder, encoder) as library, library.writing():
        new = [NewPicture(str(n), 10, 10, 1.0, (0, 0, 0), b"") for n in range(len(rows))]
        library.append(new, list(rows.astype(np.float32)))
        library.rows.executemany("insert into files values (?, ?, 0, 0)", [(f"/{n}", n) for n in range(len(rows))])
        library.commit()
    return folder


def brute_force(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosines less the mean, in float64, (n,)."""
    x, q = rows - rows.mean(0), query - rows.mean(0)
    return np.asarray((x * q).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(q))


@pytest.mark.parametrize("dtype", FIRST_PASS, ids=str)
def test_search_is_exact(tmp_path: Path, painter: PaintByExamplePipeline, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 24)) + 5  # far from the origin, so that taking the mean off matters
    rows[100:200] = rows[100] + 1e-4 * rng.normal(size=(100, 24))  # nearer together than narrow types tell apart
    rows[300:400] = rows[300] + 2.0**-21 * rng.integers(-2, 3, (100, 24))  # float32's own distance at 5
    rows[[2800, 2900, 2950]] = rows[150]  # equal ones come in the order they were added
    with Library(made_up(tmp_path / "library", painter, rows)) as library:
        library.remove([101, 7])
        search = Search(library, dtype=dtype)
        assert search.directions.dtype == dtype
        left = np.delete(rows.astype(np.float32).astype(np.float64), [7, 101], 0)
        ids = np.delete(np.arange(3000), [7, 101])
        for number in (0, 100, 300, 150):
            query = rows[number] + 0.01
            cosines = brute_force(left, query)
            best = np.argsort(-cosines, kind="stable")[:20]
            found = search.nearest(query, 20)
            assert [one.entry.id for one in found] == ids[best].tolist()
            assert np.allclose([one.score for one in found], cosines[best], rtol=0, atol=1e-12)
        hole = Hole(1.0, 10, 0.0)  # which all of these fit alike
        fitting = search.fitting(hole, 20, query)
        assert [one.entry.id for one in fitting] == ids[best].tolist()
        assert np.allclose([one.likeness or 0.0 for one in fitting], cosines[best], rtol=0, atol=1e-12)
        assert [one.entry.id for one in search.nearest(query, 0)] == []
        assert len(search.nearest(query, 5000)) == 2998


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_best_is_found_though_rounding_puts_it_last(
    tmp_path: Path, painter: PaintByExamplePipeline, dtype: torch.dtype
) -> None:
    """Most of its numbers lie just below the middle of two of the type, those of all others just above it."""
    rng, size, others = np.random.default_rng(1), 128, 30
    step = torch.finfo(dtype).eps / 32  # between numbers of the type in [1/32, 1/16)
    grid = 1 / 32 + step * np.floor(rng.random(size) / 128 / step)
    most = np.arange(size) < 96
    rows = grid + step * np.where(most, 0.51, 0.1 - 0.001 * np.arange(others + 1)[:, None])
    rows[0] = grid + step * np.where(most, 0.49, 0.2)  # 96 times 0.02 less, 32 times 0.1 more
    rows = np.concatenate([rows, np.sqrt(1 - (rows**2).sum(1, keepdims=True))], 1)  # of length 1
    query = np.append(np.full(size, size**-0.5), 0)
    rows = np.concatenate([rows, -rows])  # whose mean is 0
    with Library(made_up(tmp_path / "library", painter, rows)) as library:
        search = Search(library, dtype=dtype)
        cosines = brute_force(rows.astype(np.float32).astype(np.float64), query)
        expected = np.argsort(-cosines, kind="stable")
        approximate = search.approximate(query)
        assert expected[0] == 0
        assert approximate[0] < approximate[1 : others + 1].min()
        assert np.abs(approximate - cosines).max() < rounding(dtype, size + 1)
        for count in (1, 10):
            assert search.nearest_rows(query, count)[0].tolist() == expected[:count].tolist()


def test_the_first_pass_is_in_a_type_whose_sums_can_be_relied_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert quickest(24) in FIRST_PASS
    exact = torch.Tensor.__matmul__

    def narrow(rows: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """Sums that are kept in the type of the vectors."""
        if rows.dtype not in (torch.bfloat16, torch.float16):
            return exact(rows, query)
        total = torch.zeros(len(rows), dtype=rows.dtype)
        for column in range(rows.shape[1]):
            total += rows[:, column] * query[column]
        return total

    monkeypatch.setattr(torch.Tensor, "__matmul__", narrow)
    assert quickest.__wrapped__(768) == torch.float32


def test_an_index_finds_what_an_exact_search_finds(tmp_path: Path) -> None:
    """In the order of exact cosines, and it is used as long as it is of the pictures that there are."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((2000, 24)) + 1).astype(np.float32)

    def append(library: Library, start: int, stop: int) -> None:
        new = [NewPicture(f"{n:032x}", 4, 4, 1.0, (0, 0, 0), b"") for n in range(start, stop)]
        library.append(new, list(features[start:stop]))
        library.rows.executemany("insert into files values (?, ?, 1, 1)", [(f"{n}.png", n) for n in range(start, stop)])
        library.commit()

    with Library(tmp_path / "library", Encoder("x", 24, "x", None)) as library:
        with library.writing():
            append(library, 0, 1999)
        assert Search(library).index is None
        assert make_index(library) == 1999
        search, exact = Search(library), Search(library, indexed=False)
        assert search.index is not None
        np.testing.assert_array_equal(search.centre, exact.centre)
        for query in rng.standard_normal((20, 24)):
            rows, cosines = search.nearest_rows(query, 10)
            expected, exact_cosines = exact.nearest_rows(query, 10)
            assert len(set(rows) & set(expected)) >= 9
            assert (cosines <= exact_cosines + 1e-9).all()
        assert "directions" not in vars(search)  # nothing but the index was read
        assert len(search.nearest_rows(query, 1500)[0]) == 1500
        with library.writing():
            append(library, 1999, 2000)
        assert Search(library).index is None
        assert Search(library).nearest(features[1999], 1)[0].entry.id == 1999
        assert make_index(library) == 2000
        assert Search(library).nearest(features[1999], 1)[0].entry.id == 1999


def test_an_index_and_torch_do_their_work_in_one_process() -> None:
    """Both have threads of their own: two runtimes of OpenMP in a process would end it, or its results be wrong."""
    x = torch.randn(3000, 64, generator=torch.Generator().manual_seed(0))
    before = x @ x.T
    graph = empty_graph(64)
    graph.add(np.arange(3000), x.half().numpy(), threads=2)
    found = graph.search(x[:100].numpy(), 5, threads=2).keys
    assert torch.equal(x @ x.T, before)
    assert (found == before[:100].topk(5).indices.numpy()).mean() > 0.9


def test_search_finds_the_picture_itself(kept: tuple[Path, Path], painter: PaintByExamplePipeline) -> None:
    folder, library = kept
    add_pictures(library, painter, [folder / "below"], tags=("red",))
    with Library(library) as opened:
        found = find_exemplars(opened, 2, painter=painter, like=Image.open(folder / "1.png"))
        assert [len(found), found[0].entry.id, round(found[0].score, 6)] == [2, 1, 1.0]
        found = find_exemplars(opened, 2, painter=painter, like=Image.open(folder / "1.png"), tags=["red"])
        assert [one.entry.id for one in found] == [3]
        assert [one.entry.id for one in find_exemplars(opened, 9, tags=["red"])] == [3]
        assert find_exemplars(opened, 9, tags=["green"]) == []
    with Library(made_up(library.parent / "empty", painter, np.zeros((0, 16))), None) as empty:
        assert find_exemplars(empty, 3) == []


def test_what_fits_a_hole_has_its_shape_and_light(tmp_path: Path, painter: PaintByExamplePipeline) -> None:
    sizes = {"wide": (80, 20), "tall": (20, 80), "square": (60, 60)}
    (tmp_path / "pictures").mkdir()
    for name, size in sizes.items():
        for level in (30, 220):
            Image.new("RGB", size, (level,) * 3).save(tmp_path / "pictures" / f"{name}-{level}.png")
    add_pictures(tmp_path / "library", painter, [tmp_path / "pictures"])
    mask = np.zeros((100, 100), bool)
    mask[40:55, 10:70] = True
    with Library(tmp_path / "library") as library:
        for level in (30, 220):
            hole = Hole.of(Image.new("RGB", (100, 100), (level,) * 3), mask)
            assert hole.aspect == 4
            names = [Path(one.entry.paths[0]).stem for one in find_exemplars(library, 6, hole=hole)]
            assert names[0] == f"wide-{level}"
            assert names[-1] == f"tall-{250 - level}"


def test_an_even_border_does_not_count() -> None:
    picture = Image.new("RGB", (100, 100), "white")
    picture.paste((200, 100, 0), (10, 40, 90, 60))
    aspect, colour = describe(picture, 1.0)
    assert aspect == pytest.approx(4)
    assert colour == pytest.approx((200 / 255, 100 / 255, 0))
    assert describe(Image.new("RGB", (100, 50), "white"), 2.0)[0] == 2


# --- edits ------------------------------------------------------------------------------------------------------------


def test_edits_from_the_library_are_the_same_to_the_last_bit(
    tmp_path: Path, pipeline: PaintByExamplePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures(tmp_path / "pictures")
    add_pictures(tmp_path / "library", pipeline, [folder])
    settings: dict[str, Any] = {"box": (10, 10, 30, 30), "steps": 2}
    source = tiny.picture(60, 44, seed=20)
    with Library(tmp_path / "library") as library:
        for entry in library.entries():
            plain = pipeline.edit(source, exemplar=entry.paths[0], **settings)
            exemplar = library.exemplar(entry)
            assert isinstance(exemplar, Encoded)
            with monkeypatch.context() as patch:
                patch.setattr(type(pipeline), "encode_exemplar", lambda *_: pytest.fail("encoded again"))
                stored = pipeline.edit(source, exemplar=exemplar, **settings)
            assert np.array_equal(np.asarray(plain.images[0]), np.asarray(stored.images[0]))
            assert plain.records == stored.records


def test_a_file_that_changed_is_not_painted_with(kept: tuple[Path, Path]) -> None:
    folder, library = kept
    with Library(library) as opened:
        entry = next(opened.entries())
        tiny.picture(9, 9).save(folder / "0.png")
        with pytest.raises(PictureError, match="in none of its files any more"):
            opened.exemplar(entry)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    folder, place = pictures(tmp_path / "pictures"), ["--library", str(tmp_path / "library")]
    model = str(models["embedded"])
    assert main(["library", "add", str(folder), "--model", model, "--tag", "noise", "--json", *place]) == 0
    assert json.loads(capsys.readouterr().out)["added"] == 4
    assert main(["library", "search", "--like", str(folder / "1.png"), "--top", "2", "--json", *place]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(lines), lines[0]["paths"]] == [2, [str(folder / "1.png")]]
    photo = str(folder / "0.png")
    assert main(["library", "search", "--for", photo, "--box", "2,2,20,20", "--tag", "noise", *place]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["library", "index", *place]) == 0
    assert capsys.readouterr().out == "indexed 4\n"
    assert main(["library", "remove", str(folder / "below"), *place]) == 0
    assert capsys.readouterr().out == "removed 1\n"
    assert main(["library", "list", *place]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["0", "1", "2"]
    assert main(["library", "add", str(folder), "--model", model, *place]) == 0  # it comes back under a new number
    assert capsys.readouterr().out.startswith("added      1\n")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["search", "--library", "nowhere", "--tag", "a"], 1, "there is no library in nowhere"),
        (["search"], 2, "missing: --like, --text, --tag or --for"),
        (["search", "--for", "a.png"], 2, "--for needs --mask or --box"),
        (["add"], 2, "missing: folders or pictures"),
        (["remove"], 2, "missing: files or folders"),
    ],
)
def test_mistakes_are_told_on_one_line(
    arguments: list[str], status: int, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["library", *arguments]) == status
    assert expected in capsys.readouterr().err


def test_edits_from_the_command_are_ranked_and_made_again(
    tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, library = pictures(tmp_path / "pictures"), str(tmp_path / "library")
    assert main(["library", "add", str(folder), "--model", str(models["embedded"]), "--library", library]) == 0
    source = tmp_path / "source.png"
    tiny.picture(60, 44, seed=20).save(source)
    given = ["edit", str(source), "--box", "10,10,30,30", "--steps", "2", "--output", str(tmp_path / "out.png")]
    capsys.readouterr()
    for like in ([], ["--like", str(folder / "1.png")]):
        assert main([*given, "--exemplar-from", library, *like, "--top", "3", "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(line["output"]).name for line in lines] == ["out.png", "out-2.png", "out-3.png"]
        assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
        assert len({line["exemplar"] for line in lines}) == 3
    assert str(folder / "1.png") in {line["exemplar"] for line in lines}
    for line in lines:  # the same to the last bit as with the picture itself, and as the record makes it again
        pixels = np.asarray(Image.open(line["output"]))
        again = ["edit", "--from", line["output"], "--output", str(tmp_path / "again.png")]
        assert main(again) == 0
        assert np.array_equal(pixels, np.asarray(Image.open(tmp_path / "again.png")))
    assert main([*given, "--exemplar", "a.png", "--exemplar-from", library]) == 2
    assert main([*given, "--exemplar", "a.png", "--top", "3"]) == 2


def test_a_batch_asks_a_library(tmp_path: Path, models: dict[str, Path]) -> None:
    folder, library = pictures(tmp_path / "pictures"), tmp_path / "library"
    assert main(["library", "add", str(folder), "--model", str(models["embedded"]), "--library", str(library)]) == 0
    tiny.picture(60, 44, seed=20).save(tmp_path / "source.png")
    rows: list[dict[str, Any]] = [
        {"library": "library", "like": "pictures/1.png"},
        {"exemplar": "pictures/1.png"},
        {"library": "library"},
        {"library": "library", "tag": "none has it"},
        {"library": "nowhere", "like": "pictures/1.png"},
        {"exemplar": "pictures/1.png", "library": "library"},
        {"exemplar": "pictures/1.png", "like": "pictures/1.png"},
    ]
    common = {"source": "source.png", "box": [10, 10, 30, 30], "steps": 2}
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(common | row) + "\n" for row in rows))
    output = tmp_path / "output"
    assert main(["batch", str(table), str(output), "--model", str(models["embedded"]), "--device", "cpu"]) == 1
    made = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    assert [line["row"] for line in made] == [1, 2, 3]
    assert made[0]["id"] == made[1]["id"]
    assert [line["row"] for line in failed] == [4, 5, 6, 7]
    for line, expected in zip(failed, ("no such picture", "no library in", "either an exem", "go with"), strict=True):
        assert expected in line["reason"]
    assert not (tmp_path / "nowhere").exists()
