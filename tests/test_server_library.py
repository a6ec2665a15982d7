"""The library over HTTP: looked through, searched, and taken from."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from paint_by_example import load_pipeline
from paint_by_example.errors import DataError
from paint_by_example.library import Library, TextEncoder, add_pictures, encode
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.library import Exemplars
from paint_by_example.server.models import Shelf
from paint_by_example.server.serving import devices
from paint_by_example.server.store import Store
from tests import server_client as ask
from tests import tiny
from tests.test_library_text import save_clip

BASE = "http://127.0.0.1"
PICTURES = 6


@pytest.fixture(scope="module")
def folder(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several shapes, the last one a TIFF file, and a library of them."""
    folder = tmp_path_factory.mktemp("kept")
    (folder / "pictures" / "red").mkdir(parents=True)
    for number in range(PICTURES):
        name = f"red/{number}.png" if number < 2 else f"{number}.png" if number < PICTURES - 1 else f"{number}.tif"
        tiny.picture(20 + 10 * number, 30, seed=number).save(folder / "pictures" / name)
    pipeline = load_pipeline(models["embedded"], "cpu")
    add_pictures(folder / "library", pipeline, [folder / "pictures" / "red"], tags=("red", "small"))
    encoder = TextEncoder(str(save_clip(folder / "clip", 0)))
    add_pictures(folder / "library", pipeline, [folder / "pictures"], licence="CC0", text=encoder)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = Store(tmp_path_factory.mktemp("server"), 3600)
    jobs = Jobs(Shelf(str(models["embedded"])), store, devices("cpu"), capacity=4)
    jobs.start()
    library = Exemplars(folder / "library")
    yield TestClient(create_app(jobs, Options(library=library, upload_bytes=100_000)), base_url=BASE)
    library.close()
    jobs.close()


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["name"] for one in answer.json()["pictures"]]


def search(client: TestClient, query: str = "", **files: bytes) -> Any:
    return client.post(
        f"/api/library/search{query}", files={name: (f"{name}.png", file) for name, file in files.items()}
    )


def test_it_is_looked_through_page_by_page(client: TestClient) -> None:
    about = client.get("/api/server").json()["library"]
    assert about == {"pictures": PICTURES, "tags": ["red", "small"], "text": True}
    answer = client.get("/api/library?start=4&count=4")
    assert names(answer) == ["4.png", "5.tif"]
    assert answer.json()["total"] == PICTURES
    first = client.get("/api/library?count=1").json()["pictures"][0]
    shown = {"id": 0, "name": "0.png", "width": 20, "height": 30, "licence": "CC0", "tags": ["red", "small"]}
    assert first == shown | {"score": 0.0, "likeness": None}
    tagged = client.get("/api/library?tag=red&tag=small")
    assert names(tagged) == ["0.png", "1.png"]
    assert tagged.json()["total"] == 2
    assert names(client.get("/api/library?tag=red&tag=blue")) == []


def test_likeness_is_that_of_the_library(client: TestClient, folder: Path, models: dict[str, Path]) -> None:
    with Library(folder / "library") as library:
        features = library.features().astype(float)
    asked = tiny.picture(33, 33, seed=70)
    file = io.BytesIO()
    asked.save(file, "PNG")
    x, query = features - features.mean(0), encode(load_pipeline(models["embedded"], "cpu"), asked) - features.mean(0)
    cosines = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
    answer = search(client, exemplar=file.getvalue())
    pictures = answer.json()["pictures"]
    assert [one["id"] for one in pictures] == list(np.argsort(-cosines))
    np.testing.assert_allclose([one["likeness"] for one in pictures], np.sort(cosines)[::-1], atol=1e-6)
    assert names(search(client, "?start=1&count=2", exemplar=file.getvalue())) == names(answer)[1:3]
    assert set(names(search(client, "?tag=red", exemplar=file.getvalue()))) == {"0.png", "1.png"}
    assert names(client.get("/api/library?like=3"))[0] == "3.png"


def test_words_find_pictures(client: TestClient, folder: Path) -> None:
    with Library(folder / "library") as library:
        cosines = library.texts() @ TextEncoder(str(folder / "clip")).words("red chair")
    answer = client.get("/api/library?text=red%20chair").json()
    assert [one["id"] for one in answer["pictures"]] == list(np.argsort(-cosines))
    assert set(names(client.get("/api/library?text=red&tag=red"))) == {"0.png", "1.png"}
    assert "text is empty" in client.get("/api/library?text=%20").json()["error"]
    assert "do not go together" in client.get("/api/library?text=red&like=1").json()["error"]


def test_what_fits_a_hole_comes_first(client: TestClient) -> None:
    """The pictures are 30 high and 20, 30, ... wide."""
    for wide, name in ((20, "0.png"), (50, "3.png")):
        mask = ask.mask_png((10, 10, 10 + wide, 40), (100, 80))
        assert names(search(client, source=ask.png(100, 80), mask=mask))[0] == name
    like = search(client, source=ask.png(100, 80), mask=mask, exemplar=ask.png(20, 20)).json()
    assert like["total"] == PICTURES
    assert like["pictures"][0]["score"] != like["pictures"][0]["likeness"]


def test_a_picture_is_sent_as_it_is_or_so_that_browsers_show_it(client: TestClient, folder: Path) -> None:
    answer = client.get("/api/library/2/picture")
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == (folder / "pictures" / "2.png").read_bytes()
    answer = client.get("/api/library/5/picture")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as sent, Image.open(folder / "pictures" / "5.tif") as kept:
        np.testing.assert_array_equal(np.asarray(sent), np.asarray(kept))
    small = client.get("/api/library/2/thumbnail")
    assert small.headers["content-type"] == "image/webp"
    assert Image.open(io.BytesIO(small.content)).size == (40, 30)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/library/99/thumbnail", 404, "there is no picture 99 in the library"),
        ("/api/library/99/picture", 404, "there is no picture 99 in the library"),
        ("/api/library?like=99", 404, "there is no picture 99 in the library"),
        ("/api/library?count=1000", 422, "count"),
        ("/api/library?start=-1", 422, "start"),
    ],
)
def test_mistakes_are_told_on_one_line(client: TestClient, path: str, status: int, message: str) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_uploads_are_checked(client: TestClient) -> None:
    assert "source and mask belong together" in search(client, source=ask.png()).json()["error"]
    assert "nothing to search by" in client.post("/api/library/search").json()["error"]
    broken = search(client, exemplar=b"no picture")
    assert broken.status_code == 422
    assert "exemplar.png" in broken.json()["error"]
    empty = search(client, source=ask.png(), mask=ask.mask_png((0, 0, 0, 0)))
    assert empty.status_code == 422
    large = search(client, exemplar=b"x" * 200_000)
    assert large.status_code == 413


def test_a_file_that_changed_is_not_sent_and_what_is_added_is_found(
    client: TestClient, folder: Path, models: dict[str, Path]
) -> None:
    place = folder / "pictures" / "4.png"
    before = place.read_bytes()
    tiny.picture(9, 9, seed=50).save(place)
    answer = client.get("/api/library/4/picture")
    assert answer.status_code == 404
    assert str(folder) not in answer.json()["error"]
    add_pictures(folder / "library", load_pipeline(models["embedded"], "cpu"), [place])
    assert client.get("/api/library").json()["total"] == PICTURES  # one is missing, one is new
    assert names(client.get("/api/library?like=6"))[0] == "4.png"
    place.write_bytes(before)


def test_without_a_library_there_is_none(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no library"):
        Exemplars(tmp_path / "nothing")
    jobs = Jobs(Shelf(str(models["embedded"])), Store(tmp_path / "state", 3600), devices("cpu"), capacity=1)
    client = TestClient(create_app(jobs, Options()), base_url=BASE)
    assert client.get("/api/library").status_code == 404
    assert "--library" in client.get("/api/library").json()["error"]
