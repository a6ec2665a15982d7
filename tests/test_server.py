"""The API, with a tiny model: what an edit takes and gives, and what is said of mistakes."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient

from paint_by_example import PaintByExamplePipeline, load_pipeline
from paint_by_example.cli import main
from paint_by_example.inputs import Blend
from paint_by_example.presets import PRESETS
from paint_by_example.record import read_record
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.browsing import Roots
from paint_by_example.server.jobs import Jobs
from paint_by_example.server.models import Shelf
from paint_by_example.server.serving import devices
from paint_by_example.server.store import Store
from tests import server_client as ask

BASE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def jobs(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("server")
    jobs = Jobs(Shelf(str(models["clip"])), Store(folder, 3600), devices("cpu"), capacity=8)
    jobs.start()
    yield jobs
    jobs.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    (folder / "holiday").mkdir()
    (folder / "room.png").write_bytes(ask.png())
    (folder / "holiday" / "beach.png").write_bytes(ask.png(300, 100))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(ask.png())
    return folder


@pytest.fixture(scope="module")
def client(jobs: Jobs, folder: Path) -> TestClient:
    return TestClient(create_app(jobs, Options(roots=Roots(input=folder))), base_url=BASE)


@pytest.fixture(scope="module")
def clip(models: dict[str, Path]) -> PaintByExamplePipeline:
    return load_pipeline(models["clip"], "cpu")


def test_what_is_not_there_is_named_in_printable_letters(client: TestClient) -> None:
    answer = client.get("/api/edits/%1B%5B2J%E2%80%AEgnp")
    assert answer.status_code == 404
    assert answer.json()["error"] == r"there is no edit \x1b[2J\u202egnp: it may have expired"


def made(client: TestClient, files: list[tuple[str, Any]]) -> dict[str, Any]:
    answer = client.post("/api/edits", files=files)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/edits/{answer.json()['id']}"
    return ask.wait(client, answer.json()["id"])


def picture(client: TestClient, url: str) -> Image.Image:
    answer = client.get(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(answer.content))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def test_a_result_is_that_of_the_pipeline(client: TestClient, clip: PaintByExamplePipeline, tmp_path: Path) -> None:
    """Bit for bit, for every seed, and with the same record but for names."""
    settings: dict[str, Any] = {"guidance_scale": 2.5, "scheduler": "ddim", "feather": 2, "eta": 0.5, "steps": 3}
    edit = made(client, ask.parts(seeds=[3, 2**64 - 1], **settings))
    assert edit["state"] == "done"
    source, exemplar = opened(ask.png()), opened(ask.png(20, 24, seed=1))
    expected = clip.edit(
        source,
        box=(8, 8, 32, 28),
        exemplar=exemplar,
        seed=[3, 2**64 - 1],
        **settings,
    )
    assert len(edit["results"]) == 2
    for result, image, record in zip(edit["results"], expected.images, expected.records, strict=True):
        shown = picture(client, result["url"])
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
        assert (result["width"], result["height"]) == shown.size == source.size
        (tmp_path / "result.png").write_bytes(client.get(result["url"]).content)
        found = read_record(tmp_path / "result.png")
        assert found.settings() == record.settings()
        assert found.model.sha256 == record.model.sha256
        assert (found.source.path, found.source.sha256) == ("room.png", record.source.sha256)
        assert found.regions[0].box == (8, 8, 32, 28)
        assert found.regions[0].exemplars[0][0].path == "chair.png"
        assert result["record"] == json.loads(shown.info["paint_by_example"])
    assert edit["results"][0]["boxes"] == [list(expected.box)]


def test_a_download_is_made_again_by_the_command(
    client: TestClient, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = made(client, ask.parts(mask=ask.mask_png(), seeds=[5]))
    (tmp_path / "result.png").write_bytes(client.get(edit["results"][0]["url"]).content)
    (tmp_path / "room.png").write_bytes(ask.png())
    (tmp_path / "chair.png").write_bytes(ask.png(20, 24, seed=1))
    (tmp_path / "mask.png").write_bytes(ask.mask_png())
    monkeypatch.chdir(tmp_path)
    assert main(["edit", "--from", "result.png", "--model", str(models["clip"]), "--output", "again.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("again.png")), np.asarray(Image.open("result.png")))


def test_pixels_outside_the_mask_are_the_source_s(client: TestClient) -> None:
    edit = made(client, ask.parts(mask=ask.mask_png()))
    result, source = np.asarray(picture(client, edit["results"][0]["url"])), np.asarray(opened(ask.png()))
    mask = np.asarray(opened(ask.mask_png())) > 127
    np.testing.assert_array_equal(result[~mask], source[~mask])
    assert (result[mask] != source[mask]).mean() > 0.5


def test_regions_masks_boxes_and_blends(client: TestClient, clip: PaintByExamplePipeline) -> None:
    regions = [
        {"box": [2, 2, 20, 20], "exemplars": [1, 0], "weights": [3, 1]},
        {"mask": 0, "exemplars": [0]},
    ]
    files = ask.parts(mask=ask.mask_png((20, 10, 44, 38)), regions=regions)
    files.append(("exemplar", ("lamp.png", ask.png(9, 9, seed=2), "image/png")))
    edit = made(client, files)
    one, two = opened(ask.png(20, 24, seed=1)), opened(ask.png(9, 9, seed=2))
    whole = np.zeros((40, 48), bool)
    whole[2:20, 2:20] = True
    expected = clip.edit(
        opened(ask.png()),
        mask=[whole, np.asarray(opened(ask.mask_png((20, 10, 44, 38)))) > 127],
        exemplar=[Blend([two, one], [3, 1]), one],
        steps=2,
    )
    np.testing.assert_array_equal(
        np.asarray(picture(client, edit["results"][0]["url"])), np.asarray(expected.images[0])
    )
    record = edit["results"][0]["record"]
    assert [len(region["exemplars"]) for region in record["regions"]] == [2, 1]
    assert record["regions"][0]["exemplars"][0][0]["path"] == "lamp.png"
    assert edit["steps"] == 2 * len(regions) + 2  # PLMS evaluates its second level twice, in each region


def test_each_mask_is_a_region_with_the_exemplar_of_its_number(client: TestClient) -> None:
    files = ask.parts(mask=ask.mask_png((0, 0, 16, 16)))
    files.append(("mask", ("other.png", ask.mask_png((24, 20, 40, 36)), "image/png")))
    files.append(("exemplar", ("lamp.png", ask.png(9, 9, seed=2), "image/png")))
    record = made(client, files)["results"][0]["record"]
    assert [region["mask"]["path"] for region in record["regions"]] == ["mask.png", "other.png"]
    assert [region["exemplars"][0][0]["path"] for region in record["regions"]] == ["chair.png", "lamp.png"]


def test_events_of_an_edit(client: TestClient) -> None:
    name = client.post("/api/edits", files=ask.parts(steps=30)).json()["id"]
    stream = client.get(f"/api/edits/{name}/events")
    assert stream.headers["content-type"].startswith("text/event-stream")
    found = ask.events(stream.text)
    kinds = [kind for kind, _ in found]
    assert kinds[0] == kinds[-1] == "state"
    assert found[-1][1]["state"] == "done"
    steps = [data["step"] for kind, data in found if kind == "step"]
    assert steps == sorted(set(steps))
    assert steps[-1] <= found[-1][1]["steps"] == 31
    previews = [data for kind, data in found if kind == "preview"]
    assert previews
    assert previews[0]["box"] == found[-1][1]["results"][0]["boxes"][0]
    shown = opened(base64.b64decode(previews[0]["pictures"][0].partition(",")[2]))
    assert (shown.format, shown.size) == ("JPEG", (32, 32))
    again = ask.events(client.get(f"/api/edits/{name}/events").text)
    assert [(kind, data["state"]) for kind, data in again] == [("state", "done")]


def test_without_previews_none_are_made(client: TestClient) -> None:
    name = client.post("/api/edits", files=ask.parts(steps=30)).json()["id"]
    assert "event: preview" not in client.get(f"/api/edits/{name}/events?previews=0").text


def test_erasing_with_opencv(client: TestClient) -> None:
    files = [
        ("source", ("room.png", ask.png(), "image/png")),
        ("settings", (None, '{"model": "cv2", "regions": [{"box": [8, 8, 20, 20]}]}')),
    ]
    edit = made(client, files)
    result, source = np.asarray(picture(client, edit["results"][0]["url"])), np.asarray(opened(ask.png()))
    inside = np.zeros((40, 48), bool)
    inside[8:20, 8:20] = True
    np.testing.assert_array_equal(result[~inside], source[~inside])
    assert result[inside].std() < source[inside].std()  # noise is filled from around it, smoothly


def test_files_of_models_without_a_record_tell_what_was_asked(client: TestClient) -> None:
    files = [
        ("source", ("room.png", ask.png(), "image/png")),
        ("settings", (None, '{"model": "cv2", "seeds": [4], "regions": [{"box": [8, 8, 20, 20]}]}')),
    ]
    content = client.get(made(client, files)["results"][0]["url"]).content
    asked = client.post("/api/record", files={"picture": ("out.png", content, "image/png")}).json()
    assert (asked["model"], asked["seed"], asked["steps"]) == ("cv2", 4, None)
    for told in ('{"seed": 1, "steps": "many"}', '{"steps": 3}', "[1]", "{"):
        file, text = io.BytesIO(), PngImagePlugin.PngInfo()
        text.add_text("paint_by_example_settings", told)
        opened(content).save(file, "PNG", pnginfo=text)
        answer = client.post("/api/record", files={"picture": ("other.png", file.getvalue(), "image/png")})
        assert answer.status_code == 422


def test_a_source_with_transparency_and_a_profile(client: TestClient) -> None:
    edit = made(client, ask.parts(source=ask.png(mode="RGBA")))
    shown = picture(client, edit["results"][0]["url"])
    assert shown.mode == "RGBA"
    np.testing.assert_array_equal(
        np.asarray(shown.getchannel("A")), np.asarray(opened(ask.png(mode="RGBA")).getchannel("A"))
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"regions": [{"box": [8, 8, 8, 28]}]}, "8,8,8,28 is empty"),
        ({"regions": [{"box": [100, 8, 120, 28]}]}, "outside"),
        ({"regions": [{"mask": 0}]}, "there is no mask 0: none was sent"),
        ({"regions": [{"mask": 0, "box": [1, 2, 3, 4]}]}, "settings.regions.0: give a mask's number or a box"),
        ({"regions": [{"box": [8, 8, 32, 28], "exemplars": [4]}]}, "there is no exemplar 4: 1 were sent"),
        ({"regions": [{"box": [8, 8, 32, 28], "weights": [1, 2]}]}, "needs as many weights"),
        ({"regions": [{"box": [8, 8, 32, 28], "weights": [-1]}]}, "positive sum"),
        ({"regions": []}, "settings.regions: list should have at least 1"),
        ({"regions": [{"box": [8, 8, 32]}]}, "settings.regions.0.box"),
        ({"steps": 0}, "settings.steps: input should be greater than or equal to 1"),
        ({"steps": 10_000}, "settings.steps: input should be less than or equal to 250"),
        ({"steps": "5"}, "settings.steps: input should be a valid integer"),
        ({"setps": 5}, "settings.setps: extra inputs are not permitted"),
        ({"seeds": []}, "settings.seeds"),
        ({"seeds": [2**64]}, "settings.seeds.0"),
        ({"seeds": list(range(9))}, "settings.seeds: list should have at most 8"),
        ({"strength": 0}, "settings.strength"),
        ({"guidance_scale": float("nan")}, "settings.guidance_scale: input should be a finite number"),
        ({"scheduler": "magic"}, "settings.scheduler"),
        ({"eta": 0.5, "scheduler": "dpm++"}, "eta is for ddim only"),
        ({"prompt": "a chair"}, "takes no prompt"),
        ({"model": "cv2"}, "takes no exemplars"),
    ],
)
def test_mistakes_are_one_line(client: TestClient, change: dict[str, Any], words: str) -> None:
    answer = client.post("/api/edits", files=ask.parts(**change))
    if answer.status_code == 202:  # known only once the model is asked
        edit = ask.wait(client, answer.json()["id"])
        assert edit["state"] == "failed"
        error = edit["error"]
    else:
        assert answer.status_code == 422
        error = answer.json()["error"]
    assert words.lower() in error.lower()
    assert "\n" not in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("exemplar", ("c.png", ask.png(), "image/png"))], "source: field required"),
        (
            [
                ("source", ("r.png", ask.png(), "image/png")),
                ("settings", (None, '{"model": "cv2", "feather": 2, "regions": [{"box": [8, 8, 20, 20]}]}')),
            ],
            "feather is for models that are shown an exemplar",
        ),
        ([("source", ("r.png", ask.png(), "image/png"))], "neither a mask nor a box"),
        (
            [("source", ("r.png", ask.png(), "image/png")), ("mask", ("m.png", ask.mask_png(), ""))],
            "exemplar is missing",
        ),
        ([("source", ("r.png", ask.png(), "")), ("settings", (None, "{"))], "settings: invalid JSON"),
        ([("source", ("r.png", ask.png(), "")), ("settings", (None, "[1]"))], "settings"),
        ([*ask.parts(mask=ask.mask_png(size=(40, 40)))], "the mask is 40 x 40 pixels but the source is 48 x 40"),
        ([*ask.parts(mask=ask.mask_png((0, 0, 0, 0)))], "the mask selects nothing"),
    ],
)
def test_parts_that_do_not_go_together(client: TestClient, files: list[tuple[str, Any]], words: str) -> None:
    answer = client.post("/api/edits", files=files)
    assert answer.status_code == 422
    assert words in answer.json()["error"]


def test_nothing_is_left_of_a_refused_edit(client: TestClient, jobs: Jobs) -> None:
    before = sorted(jobs.store.folder.iterdir())
    assert client.post("/api/edits", files=ask.parts(source=b"nothing")).status_code == 422
    assert sorted(jobs.store.folder.iterdir()) == before


def test_uploads_are_not_kept_after_the_edit(client: TestClient, jobs: Jobs) -> None:
    edit = made(client, ask.parts())
    assert {path.name for path in jobs.store.place(edit["id"]).iterdir()} == {"0.png", "edit.json"}


def test_what_is_not_there(client: TestClient) -> None:
    edit = made(client, ask.parts())
    for path in (
        "/api/edits/nothing",
        "/api/edits/" + "0" * 32,
        "/api/edits/..%2f..",
        "/api/edits/nothing/events",
        f"/api/edits/{edit['id']}/results/1",
        f"/api/edits/{edit['id']}/results/-1",
        "/api/nothing",
    ):
        answer = client.get(path)
        assert answer.status_code == 404, path
        assert list(answer.json()) == ["error"]
    assert client.post("/api/edits/nothing/cancel").status_code == 404
    assert client.delete("/api/edits/nothing").status_code == 404
    assert client.post("/api/edits", files=ask.parts(model="nothing")).status_code == 404
    assert client.put("/api/edits").status_code == 405


def test_a_removed_edit_is_gone(client: TestClient, jobs: Jobs) -> None:
    edit = made(client, ask.parts())
    assert client.delete(f"/api/edits/{edit['id']}").status_code == 204
    assert client.get(f"/api/edits/{edit['id']}").status_code == 404
    assert client.get(edit["results"][0]["url"]).status_code == 404
    assert not jobs.store.place(edit["id"]).exists()


def test_the_list_is_newest_first_and_picks_states(client: TestClient) -> None:
    names = [made(client, ask.parts(seeds=[seed]))["id"] for seed in range(3)]
    listed = [edit["id"] for edit in client.get("/api/edits").json()["edits"]]
    assert listed[:3] == names[::-1]
    assert {edit["state"] for edit in client.get("/api/edits?state=done").json()["edits"]} == {"done"}
    assert client.get("/api/edits?state=asleep").status_code == 422


def test_a_preset_is_the_edits_own_or_else_the_servers(
    client: TestClient, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paint_by_example.compiled.has_openvino", lambda: False)  # it takes seconds to convert
    assert client.get("/api/server").json()["preset"] == "none"
    drafts = TestClient(create_app(jobs, Options(preset="draft")), base_url=BASE)
    assert drafts.get("/api/server").json()["preset"] == "draft"
    own = PRESETS["draft"].steps, PRESETS["fast"].steps
    for asked, preset, steps in ((None, "draft", own[0]), ("none", None, 50), ("fast", "fast", own[1])):
        edit = made(drafts, ask.parts(model="clip", preset=asked, steps=None))
        record = edit["results"][0]["record"]
        assert (record["preset"], record["steps"]) == (preset, steps)
    edit = made(drafts, ask.parts(model="clip", steps=3))  # what else is sent goes before what a preset says
    assert edit["results"][0]["record"]["steps"] == 3
    (result,) = made(client, ask.parts(model="clip"))["results"]
    assert result["record"]["preset"] is None
    box = {"model": "cv2", "regions": [{"box": [8, 8, 20, 20]}]}
    parts = [("source", ("room.png", ask.png(), "image/png"))]
    erased = [*parts, ("settings", (None, json.dumps(box)))]
    assert made(drafts, erased)["state"] == "done"
    refused = client.post("/api/edits", files=[*parts, ("settings", (None, json.dumps({**box, "preset": "fast"})))])
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("presets are for models that are shown an exemplar")


def test_models_and_the_switch(client: TestClient, jobs: Jobs) -> None:
    listed = client.get("/api/models").json()
    assert (listed["current"], listed["switch"]) == ("clip", True)
    shown = {model["name"]: model for model in listed["models"]}
    assert set(shown) == {"embedded", "cv2", "clip"}
    assert shown["clip"] == {
        "name": "clip",
        "kind": "exemplar",
        "image_size": 32,
        "steps": 50,
        "scheduler": "PNDMScheduler",
        "takes": ["source_exemplar", "harmonise"],
        "loaded": True,
    }
    try:
        assert client.put("/api/models/current", json={"name": "cv2"}).json()["current"] == "cv2"
        assert client.post("/api/edits", files=ask.parts()).status_code == 422  # cv2 takes no exemplars
        assert made(client, ask.parts(model="clip"))["state"] == "done"
        assert client.put("/api/models/current", json={"name": "../etc"}).status_code == 404
        jobs.switch = False
        assert client.put("/api/models/current", json={"name": "clip"}).status_code == 403
        assert client.post("/api/edits", files=ask.parts(model="clip")).status_code == 403
    finally:
        jobs.switch, jobs.current = True, "clip"


def test_the_record_of_a_picture(client: TestClient) -> None:
    edit = made(client, ask.parts(seeds=[9]))
    content = client.get(edit["results"][0]["url"]).content
    answer = client.post("/api/record", files={"picture": ("out.png", content, "image/png")})
    assert answer.json() == edit["results"][0]["record"]
    answer = client.post("/api/record", files={"picture": ("plain.png", ask.png(), "image/png")})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("cannot read how plain.png was made")


def test_files_are_listed_and_sent(client: TestClient, folder: Path) -> None:
    listed = client.get("/api/files").json()
    assert [(entry["name"], entry["kind"]) for entry in listed["entries"]] == [
        ("holiday", "folder"),
        ("room.png", "picture"),
    ]
    assert listed["entries"][1]["bytes"] == (folder / "room.png").stat().st_size
    inner = client.get("/api/files", params={"folder": "holiday"}).json()
    assert [entry["name"] for entry in inner["entries"]] == ["beach.png"]
    whole = client.get("/api/files/picture", params={"path": "holiday/beach.png"})
    assert whole.content == (folder / "holiday" / "beach.png").read_bytes()
    small = client.get("/api/files/picture", params={"path": "holiday/beach.png", "size": 60})
    assert (opened(small.content).format, opened(small.content).size) == ("JPEG", (60, 20))
    assert client.get("/api/files", params={"root": "output"}).status_code == 404


def test_about_health_and_metrics(client: TestClient, jobs: Jobs) -> None:
    about = client.get("/api/server").json()
    assert about["devices"] == ["cpu"]
    assert about["input"] == {"kind": "folder", "picture": None}
    assert about["limits"]["queue"] == 8
    assert client.get("/health").json() == {"status": "ok", "queued": 0, "running": 0}
    before = counted(client)
    made(client, ask.parts())
    assert counted(client) == before + 1


def counted(client: TestClient) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith('pbe_edits_total{state="done"}'))


def test_the_schema_has_examples_and_every_route(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    documented = (Path(__file__).parents[1] / "docs" / "http-api.md").read_text()
    for path, methods in schema["paths"].items():
        for method in methods:
            shown = path.replace("{name}", "{id}")
            assert f"`{method.upper()} {shown}" in documented, f"docs/http-api.md lacks {method.upper()} {shown}"
    body = schema["components"]["schemas"]["Body_make_api_edits_post"]["properties"]
    assert json.loads(body["settings"]["examples"][0])["regions"]
