"""The page's settings for what stood in the regions, and the map over the hole."""

import io
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

from tests import server_client as ask
from tests.page_client import PATIENCE, alert, choose, on_screen, open_source, opened, paint_box, png, until
from tests.test_page_runs import sent_settings
from tests.test_source_encoder import learned


@pytest.fixture(scope="module")
def aware_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("aware")
    learned(("structure", "context")).save_pretrained(folder / "aware")
    with ask.serving(folder / "aware", folder / "state", log=folder / "log") as server:
        yield server.address


@pytest.fixture
def page(browser: Any, aware_address: str) -> Iterator[Any]:
    yield from opened(browser, aware_address)


def sketch(width: int, height: int) -> dict[str, Any]:
    """Ink on nothing, as drawing programs save it."""
    lines = np.zeros((height, width, 4), np.uint8)
    lines[:, width // 2 - 8 : width // 2 + 8, 3] = 255
    file = io.BytesIO()
    Image.fromarray(lines).save(file, "PNG")
    return {"name": "lines.png", "mimeType": "image/png", "buffer": file.getvalue()}


def pixel(page: Any, x: float, y: float) -> list[int]:
    """Of what lies under the mask, at a place of the photograph."""
    stage = page.locator("#stage").bounding_box()
    left, top = on_screen(page, x, y)
    found: list[int] = page.evaluate(
        """([x, y]) => [...document.querySelector("#picture").getContext("2d").getImageData(x, y, 1, 1).data]""",
        [left - stage["x"], top - stage["y"]],
    )
    return found[:3]


def shown_map(page: Any, middle: str) -> None:
    """Wait until the middle of the hole is as light as a map should be there, and beside the line it is black."""
    page.evaluate(
        """() => window.light = () => {
          const canvas = document.querySelector("#picture");
          return canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data[0];
        }"""
    )
    until(page, f"window.light() {middle}")


def test_what_is_kept_is_chosen_seen_and_sent(page: Any, aware_address: str) -> None:
    open_source(page)
    plain = pixel(page, 90, 70)
    paint_box(page)
    choose(page, "#add-exemplar", png(60, 60, 2))
    page.wait_for_selector(".tile")
    page.click("#set-heed summary")
    assert page.locator("#set-structure option").all_inner_texts() == ["None", "Edges", "Soft edges", "A drawing"]
    for hidden in ("#show-map", "#set-structureScale", "#choose-sketch"):
        assert page.locator(hidden).is_hidden()  # nothing is kept yet

    page.select_option("#set-structure", "sketch")
    page.click("#run")
    page.wait_for_selector("#alerts .message")
    assert alert(page) == "Choose a drawing of what to keep first."
    choose(page, "#choose-sketch", sketch(100, 100))
    until(page, "document.querySelectorAll('#alerts .message').length === 2")
    assert "100×100 pixels, the photograph 320×240" in alert(page)
    choose(page, "#choose-sketch", sketch(160, 120))
    page.get_by_text("lines.png").wait_for()

    page.click("#show-map")
    shown_map(page, "> 200")  # white where the ink is
    assert max(pixel(page, 90, 70)) < 40  # black beside it
    page.click("#show-map")
    until(page, "document.querySelector('#show-map').ariaPressed === 'false'")
    page.wait_for_timeout(100)
    assert pixel(page, 90, 70) == plain

    page.fill("#set-structureScale", "1.5")
    page.press("#set-structureScale", "Tab")
    page.check("#set-context")
    page.select_option("#set-harmonise", "poisson")
    page.evaluate("document.querySelector('#alerts').replaceChildren()")
    bodies: list[bytes] = []
    page.on("request", lambda request: bodies.append(request.post_data_buffer or b""))
    settings = sent_settings(page, lambda: page.click("#run"))
    assert (settings["structure"], settings["structure_scale"]) == ("sketch", 1.5)
    assert (settings["context"], settings["harmonise"], settings["source_exemplar"]) == (True, "poisson", 0)
    sent = next(body for body in bodies if b'name="sketch"; filename="lines.png"' in body)
    content = sent[sent.index(b'name="sketch"') :]
    drawing = np.asarray(Image.open(io.BytesIO(content[content.index(b"\x89PNG") :])).convert("L"))
    assert drawing.shape == (240, 320)
    assert drawing[:, 160].max() < 10
    assert drawing[:, 90].min() == 255

    page.wait_for_timeout(1000)  # all of it survives a reload, and a drawing goes with its photograph
    page.reload()
    page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
    page.click("#set-heed summary")
    page.get_by_text("lines.png").wait_for()
    assert page.input_value("#set-structureScale") == "1.5"
    choose(page, "#open-source", png(200, 200, 3))
    page.get_by_text("No drawing yet").wait_for()


def test_only_what_the_model_can_do_is_offered(page: Any, aware_address: str) -> None:
    open_source(page)
    page.click("#set-heed summary")
    page.select_option("#set-structure", "edges")
    page.select_option("#set-model", "embedded")  # not loaded yet: what every model of its kind can do
    for hidden in ("#set-structure", "#set-structureScale", "#show-map", "#set-context"):
        assert page.locator(hidden).is_hidden()
    assert page.locator("#set-sourceExemplar").is_visible()
    assert page.locator("#set-harmonise").is_visible()
    paint_box(page)
    choose(page, "#add-exemplar", png(60, 60, 2))
    page.wait_for_selector(".tile")
    settings = sent_settings(page, lambda: page.click("#run"))
    assert "structure" not in settings
    assert "context" not in settings
    page.select_option("#set-model", "cv2")
    assert page.locator("#set-heed").is_hidden()

    with httpx.Client(base_url=aware_address, timeout=120) as server:  # a result's file says what was kept
        asked = ask.parts(
            structure="edges", structure_scale=0.5, context=True, source_exemplar=0.25, harmonise="colour"
        )
        edit = ask.wait(server, server.post("/api/edits", files=asked).json()["id"])
        result = server.get(edit["results"][0]["url"]).content
    choose(page, "#load-settings", {"name": "r.png", "mimeType": "image/png", "buffer": result})
    until(page, "document.querySelector('#set-model').value === 'aware'")
    shown = {
        key: page.input_value(f"#set-{key}") for key in ("structure", "structureScale", "sourceExemplar", "harmonise")
    }
    assert shown == {"structure": "edges", "structureScale": "0.5", "sourceExemplar": "0.25", "harmonise": "colour"}
    assert page.is_checked("#set-context")
