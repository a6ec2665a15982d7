"""What edits over HTTP keep of what stood in their regions, and the maps that can be looked at before."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from paint_by_example import PaintByExamplePipeline, load_pipeline
from paint_by_example.errors import ModelError, UserError
from paint_by_example.pose import DETECTOR, LANDMARKS
from paint_by_example.record import read_record
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.maps import drawable
from paint_by_example.server.models import Loading, Shelf
from paint_by_example.server.serving import devices, loading, serve
from paint_by_example.server.settings import ServeConfig
from paint_by_example.server.store import Store
from paint_by_example.structure import Structure, StructureKind
from tests import server_client as ask
from tests import tiny
from tests.test_controlnet import controlnet, shaken
from tests.test_server import BASE, made, opened, picture
from tests.test_source_encoder import learned

BOX = (8, 8, 32, 28)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is told more of the source, and a folder of others."""
    folder = tmp_path_factory.mktemp("models")
    learned(("structure", "context")).save_pretrained(folder / "aware")
    tiny.embedded_pipeline().save_pretrained(folder / "others" / "plain")
    (folder / "none").mkdir()
    return folder


@pytest.fixture(scope="module")
def client(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    shelf = Shelf(str(folder / "aware"), folder / "others", Loading(pose_models=folder / "none"))
    jobs = Jobs(shelf, Store(tmp_path_factory.mktemp("server"), 3600), devices("cpu"), capacity=8)
    jobs.start()
    yield TestClient(create_app(jobs, Options()), base_url=BASE)
    jobs.close()


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> PaintByExamplePipeline:
    return load_pipeline(folder / "aware", "cpu")


def drawing(width: int = ask.SIDES[0], height: int = ask.SIDES[1]) -> bytes:
    lines = np.full((height, width, 3), 255, np.uint8)
    lines[14, 10:30] = lines[10:24, 20] = 0
    file = io.BytesIO()
    Image.fromarray(lines).save(file, "PNG")
    return file.getvalue()


def with_sketch(files: list[tuple[str, Any]], content: bytes | None = None) -> list[tuple[str, Any]]:
    return [*files, ("sketch", ("lines.png", content or drawing(), "image/png"))]


@pytest.mark.parametrize(
    "asked",
    [
        {"structure": "edges", "structure_scale": 1.5, "context": True},
        {"source_exemplar": 0.4, "harmonise": "poisson"},
        {"structure": "sketch", "harmonise": "colour"},
    ],
)
def test_a_result_is_that_of_the_pipeline(
    client: TestClient, pipeline: PaintByExamplePipeline, tmp_path: Path, asked: dict[str, Any]
) -> None:
    (tmp_path / "lines.png").write_bytes(drawing())
    files, given = ask.parts(**asked), dict(asked)
    if asked.get("structure") == "sketch":
        files, given["structure"] = with_sketch(files), Structure("sketch", str(tmp_path / "lines.png"))
    edit = made(client, files)
    assert edit["state"] == "done", edit["error"]
    exemplar = opened(ask.png(20, 24, seed=1))
    expected, plain = (
        pipeline.edit(opened(ask.png()), box=BOX, exemplar=exemplar, steps=2, **more) for more in (given, {})
    )
    shown = np.asarray(picture(client, edit["results"][0]["url"]))
    np.testing.assert_array_equal(shown, np.asarray(expected.images[0]))
    assert not np.array_equal(shown, np.asarray(plain.images[0]))

    # The record says it in the client's words, and makes the same edit again.
    result = client.get(edit["results"][0]["url"]).content
    (tmp_path / "result.png").write_bytes(result)
    assert read_record(tmp_path / "result.png").settings() == expected.records[0].settings()
    again = client.post("/api/record", files={"picture": ("out.png", result, "image/png")}).json()
    assert again == edit["results"][0]["record"]


def drawn(client: TestClient, files: list[tuple[str, Any]]) -> list[tuple[list[int], np.ndarray]]:
    answer = client.post("/api/structure", files=files)
    assert answer.status_code == 200, answer.text
    maps = answer.json()["maps"]
    assert [one["region"] for one in maps] == list(range(len(maps)))
    contents = [one["picture"].removeprefix("data:image/png;base64,") for one in maps]
    pictures = [np.asarray(opened(base64.b64decode(content))) for content in contents]
    return [(one["box"], pixels) for one, pixels in zip(maps, pictures, strict=True)]


@pytest.mark.parametrize("kind", ["edges", "soft-edges", "sketch"])
def test_maps_are_those_an_edit_is_told(
    client: TestClient, pipeline: PaintByExamplePipeline, kind: StructureKind
) -> None:
    regions = [{"mask": 0}, {"box": [20, 2, 46, 20], "exemplars": [5]}]  # no exemplars are needed yet
    files = ask.parts(mask=ask.mask_png(), structure=kind, regions=regions)
    files = [part for part in files if part[0] != "exemplar"]
    structure = Structure(kind, opened(drawing()) if kind == "sketch" else None)
    found = drawn(client, with_sketch(files) if kind == "sketch" else files)
    source = opened(ask.png())
    mask = np.asarray(opened(ask.mask_png())) > 127
    other = np.zeros_like(mask)
    other[2:20, 20:46] = True
    expected = pipeline.structure_maps(source, structure, mask=[mask, other])
    assert len(found) == len(expected) == 2
    for (_, pixels), image in zip(found, expected, strict=True):
        assert pixels.any()
        np.testing.assert_array_equal(pixels, np.asarray(image))
    edit = pipeline.edit(source, mask=[mask, other], exemplar=opened(ask.png(20, 24, seed=1)), steps=1)
    assert [tuple(box) for box, _ in found] == edit.boxes


def test_what_a_model_takes_is_listed_and_the_rest_refused(client: TestClient) -> None:
    shown = {model["name"]: model["takes"] for model in client.get("/api/models").json()["models"]}
    assert shown["aware"] == ["structure", "context", "source_exemplar", "harmonise"]
    assert shown["cv2"] == []
    assert shown["plain"] is None  # not looked at yet
    files = ask.parts(model="plain", structure="edges")
    answer = client.post("/api/structure", files=files)
    assert (answer.status_code, "has not been loaded yet" in answer.json()["error"]) == (422, True)
    edit = made(client, files)  # so only the worker can tell
    assert edit["state"] == "failed"
    assert edit["error"].startswith("this model takes no structure")
    shown = {model["name"]: model["takes"] for model in client.get("/api/models").json()["models"]}
    assert shown["plain"] == ["source_exemplar", "harmonise"]
    assert drawn(client, files)  # what would be told can be seen


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (ask.parts(model="plain", structure="edges"), "the model plain takes no structure; leave it out"),
        (ask.parts(model="plain", context=True), "the model plain takes no context"),
        (
            [one for one in ask.parts(model="cv2", harmonise="colour") if one[0] != "exemplar"],
            "the model cv2 takes no harmonise",
        ),
        (ask.parts(structure="sketch"), "the structure sketch needs a drawing: send it as the part sketch"),
        (with_sketch(ask.parts(structure="edges")), "a sketch was sent, which goes with the structure sketch only"),
        (
            with_sketch(ask.parts(structure="sketch"), drawing(40, 48)),
            "the sketch lines.png is 40 x 48 and the source 48 x 40",
        ),
        (with_sketch(ask.parts(structure="sketch"), b"nothing"), "lines.png"),
        (ask.parts(structure="pose"), "this server has no networks for the structure pose"),
        (ask.parts(structure="depth"), "settings.structure: input should be 'edges', 'soft-edges', 'pose' or 'sketch'"),
        (ask.parts(structure="edges", structure_scale=1e9), "settings.structure_scale: input should be less than"),
        (ask.parts(source_exemplar=2), "settings.source_exemplar: input should be less than or equal to 1"),
        (ask.parts(harmonise="magic"), "settings.harmonise: input should be 'colour' or 'poisson'"),
        (ask.parts(context=1), "settings.context: input should be a valid boolean"),
    ],
)
def test_mistakes_are_one_line(client: TestClient, files: list[tuple[str, Any]], words: str) -> None:
    if any('"plain"' in str(part) for part in files):
        made(client, ask.parts(model="plain", steps=1))  # now it is known
    answer = client.post("/api/edits", files=files)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (ask.parts(), "there is nothing to draw: say which structure"),
        (ask.parts(structure="pose"), "this server has no networks for the structure pose"),
        (ask.parts(structure="edges", model="cv2"), "the model cv2 takes no structure"),
        (with_sketch(ask.parts(structure="sketch"), drawing(40, 48)), "make them the same size"),
        (ask.parts(source=b"nothing", structure="edges"), "room.png"),
    ],
)
def test_maps_that_cannot_be_drawn_are_said(client: TestClient, files: list[tuple[str, Any]], words: str) -> None:
    answer = client.post("/api/structure", files=files)
    assert answer.status_code == 422
    assert words in answer.json()["error"]
    assert "/" not in answer.json()["error"].replace("docs/source-aware.md", "").replace("/api/models", "")


def test_poses_are_offered_where_their_networks_are(client: TestClient, tmp_path: Path) -> None:
    assert client.get("/api/server").json()["structures"] == ["edges", "soft-edges", "sketch"]
    for name in (DETECTOR, LANDMARKS):
        (tmp_path / name).touch()
    assert drawable(tmp_path) == ["edges", "soft-edges", "pose", "sketch"]
    with pytest.raises(UserError, match="there are no networks for poses"):
        serve(ServeConfig(pose_models=tmp_path / "elsewhere"), print)


def test_a_controlnet_goes_beside_the_first_model(tmp_path: Path) -> None:
    model, beside = tmp_path / "sd", tmp_path / "canny"
    pipeline = tiny.sd_pipeline()
    pipeline.save_pretrained(model)
    shaken(controlnet(pipeline)).save_pretrained(beside)
    config = ServeConfig(model=str(model), controlnet=str(beside))
    jobs = Jobs(Shelf(str(model), None, loading(config)), Store(tmp_path / "state", 60), devices("cpu"), capacity=2)
    jobs.start()
    client = TestClient(create_app(jobs, Options()), base_url=BASE)
    try:
        shown = {one["name"]: one["takes"] for one in client.get("/api/models").json()["models"]}
        assert shown["sd"] == ["structure", "source_exemplar", "harmonise"]
        edit = made(client, ask.parts(structure="edges"))
        assert edit["state"] == "done", edit["error"]
        guide = edit["results"][0]["record"]["structure"]
        assert (guide["kind"], guide["controlnet"]["path"]) == ("edges", "canny")  # not where it lies here
    finally:
        jobs.close()
    with pytest.raises(ModelError, match="goes beside a model that is shown an exemplar; cv2 is none"):
        Shelf("cv2", None, loading(config))
    with pytest.raises(UserError, match="with --local-files-only, --controlnet takes a folder"):
        serve(ServeConfig(controlnet="owner/name", local_files_only=True), print)
