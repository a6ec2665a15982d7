"""The page: edits from Paint to their results."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import server_client as ask
from tests.page_client import PATIENCE, alert, choose, drag, mask, open_source, paint_box, png, until


@pytest.mark.slow
def test_paint_watch_compare_download_reload(page: Any, tmp_path: Path) -> None:
    open_source(page)
    page.click("#tool-brush")
    drag(page, (100, 120), (200, 120))
    choose(page, "#add-exemplar", png(90, 90, 2))
    page.wait_for_selector(".tile")
    page.select_option("#set-preset", "quick")
    page.fill("#set-candidates", "2")
    page.press("#set-candidates", "Tab")
    page.fill("#set-seed", "7")
    page.press("#set-seed", "Tab")
    painted = mask(page)
    page.click("#run")
    page.wait_for_selector("#progress progress[value]", timeout=PATIENCE)
    assert "of 8" in page.locator(".job").inner_text()
    page.wait_for_selector(".job .looks img", timeout=PATIENCE)  # a preview of each candidate
    page.wait_for_selector("#film button", timeout=PATIENCE)
    assert page.locator("#film button").count() == 2
    assert page.locator(".job").count() == 0

    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / "result.png"
    download.value.save_as(path)
    result = Image.open(path)
    record = json.loads(result.info["paint_by_example"])
    assert (record["seed"], record["steps"], record["source"]["path"]) == (7, 8, "picture-1.png")
    source = np.asarray(Image.open(io.BytesIO(ask.png(320, 240, 1))))
    np.testing.assert_array_equal(np.asarray(result)[~painted], source[~painted])
    assert (np.asarray(result)[painted] != source[painted]).any()

    page.click("#show-split")
    assert page.locator("#split").is_visible()
    page.focus("#split")
    before = page.input_value("#split")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#split") != before

    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector("#film button")
    assert page.locator("#film button").count() == 2
    np.testing.assert_array_equal(mask(page), painted)
    assert page.locator(".tile").count() == 1

    page.fill("#set-guidance", "2")
    page.press("#set-guidance", "Tab")
    choose(page, "#load-settings", {"name": "r.png", "mimeType": "image/png", "buffer": path.read_bytes()})
    until(page, "document.querySelector('#set-guidance').value === '5'")
    assert page.input_value("#set-seed") == "7"
    assert page.get_attribute("#lock-seed", "aria-pressed") == "true"

    page.locator("#film button").nth(1).click()
    page.click("#use")
    until(page, "document.querySelector('#show-mask').getAttribute('aria-pressed') === 'true'")
    assert not mask(page).any()
    page.click("#undo")
    np.testing.assert_array_equal(mask(page), painted)


@pytest.mark.slow
def test_an_edit_can_be_cancelled_and_nothing_is_lost(page: Any) -> None:
    open_source(page)
    paint_box(page)
    choose(page, "#add-exemplar", png(60, 60, 2))
    page.select_option("#set-preset", "custom")
    page.fill("#set-steps", "250")
    page.press("#set-steps", "Tab")
    drawn = mask(page)
    page.click("#run")
    page.wait_for_selector("#progress progress[value]", timeout=PATIENCE)
    page.click(".job button")
    page.wait_for_selector(".job", state="detached", timeout=PATIENCE)
    assert page.locator("#film button").count() == 0
    assert page.locator("#alerts .message").count() == 0
    np.testing.assert_array_equal(mask(page), drawn)


@pytest.mark.slow
def test_an_edit_goes_on_while_the_page_is_reloaded_and_a_sweep_is_a_grid(page: Any) -> None:
    page.click("#welcome-example")
    page.wait_for_selector(".tile")
    page.fill("#set-candidates", "1")
    page.press("#set-candidates", "Tab")
    page.select_option("#set-preset", "custom")
    page.fill("#set-steps", "3")
    page.press("#set-steps", "Tab")
    page.click("#sweep")
    page.fill("#sweep-values", "1 6")
    page.click("#sweep-run")
    page.wait_for_selector(".sweep-grid tr:nth-child(3)", timeout=PATIENCE)
    page.reload()
    page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
    until(page, "document.querySelectorAll('#film button').length === 2")
    page.click("#sweep")
    assert page.locator(".sweep-grid th").all_inner_texts()[-2:] == ["1", "6"]
    assert page.locator(".sweep-grid td img").count() == 2


def test_regions_have_exemplars_of_their_own(page: Any) -> None:
    open_source(page)
    paint_box(page)
    for seed in (2, 3):
        choose(page, "#add-exemplar", png(50, 70, seed))
        until(page, f"document.querySelectorAll('.tile').length === {seed - 1}")
    page.click("#add-region")
    drag(page, (10, 10), (60, 60))
    page.locator(".tile > button").first.click()
    sent: dict[str, Any] = {}

    def refuse(route: Any) -> None:
        sent["body"] = route.request.post_data_buffer
        answer = {"error": "the queue is full"}
        route.fulfill(
            status=503, headers={"Retry-After": "9"}, content_type="application/json", body=json.dumps(answer)
        )

    page.route("**/api/edits", refuse)
    page.expected_complaints = ("503",)
    page.click("#run")
    page.wait_for_selector("#alerts .message")
    assert alert(page) == "the queue is full Try again in 9 s."
    assert page.locator("#film button").count() == 0
    body = sent["body"]
    settings = json.loads(body[body.index(b'{"model"') :].split(b"\r\n")[0])
    # numbered as they were first used: the first region shows the second exemplar, the second one the first
    assert [region["exemplars"] for region in settings["regions"]] == [[0], [1]]
    assert body.index(b"picture-3.png") < body.index(b"picture-2.png")
    assert body.count(b'name="mask"') == 2


def test_what_is_missing_is_said_in_one_line(page: Any) -> None:
    page.click("#run")
    page.wait_for_selector("#alerts .message")
    assert alert(page) == "Open a photograph first."
    open_source(page)
    page.click("#run")
    until(page, "document.querySelectorAll('#alerts .message').length === 2")
    assert alert(page).startswith("Mark what should change")
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    choose(page, "#add-exemplar", broken)
    until(page, "document.querySelectorAll('#alerts .message').length === 3")
    assert "broken.png" in alert(page)


@pytest.mark.slow
def test_many_edits_leave_connections_for_cancelling_them(page: Any) -> None:
    listening: set[Any] = set()
    most = 0

    def begun(request: Any) -> None:
        nonlocal most
        if "/events" in request.url:
            listening.add(request)
            most = max(most, len(listening))

    page.on("request", begun)
    for ended in ("requestfinished", "requestfailed"):
        page.on(ended, lambda request: listening.discard(request))
    page.click("#welcome-example")
    page.wait_for_selector(".tile")
    page.select_option("#set-preset", "custom")
    page.fill("#set-steps", "250")
    page.press("#set-steps", "Tab")
    page.click("#sweep")
    page.fill("#sweep-values", "1 2 3 4 5 6 7 8")
    page.click("#sweep-run")
    until(page, "document.querySelectorAll('.job').length === 8")
    page.keyboard.press("Escape")
    for left in range(7, -1, -1):  # the last one in the queue first
        page.locator(".job button").last.click()
        until(page, f"document.querySelectorAll('.job').length === {left}")
    assert 1 <= most <= 2
    assert page.locator("#film button").count() == 0


def sent_settings(page: Any, act: Any) -> dict[str, Any]:
    """The settings of the edit that something sends, which the server is kept from seeing."""
    sent: list[bytes] = []

    def refuse(route: Any) -> None:
        sent.append(route.request.post_data_buffer)
        route.fulfill(status=503, content_type="application/json", body='{"error": "not now"}')

    page.route("**/api/edits", refuse)
    page.expected_complaints = ("503",)
    act()
    page.wait_for_selector("#alerts .message")
    page.unroute("**/api/edits")
    settings: dict[str, Any] = json.loads(sent[0][sent[0].index(b'{"model"') :].split(b"\r\n")[0])
    return settings


def test_what_is_being_typed_counts(page: Any) -> None:
    page.click("#welcome-example")
    page.wait_for_selector(".tile")
    assert page.input_value("#set-speed") == "none"  # the server's own
    page.select_option("#set-speed", "draft")
    page.fill("#set-guidance", "7.5")
    settings = sent_settings(page, lambda: page.keyboard.press("Control+Enter"))
    assert settings["guidance_scale"] == 7.5
    assert settings["preset"] == "draft"
    page.fill("#set-feather", "4")
    page.press("#set-feather", "Tab")
    page.click("body", position={"x": 700, "y": 30})
    page.keyboard.press("Control+z")  # one setting at a time, however fast they were changed
    assert page.input_value("#set-feather") == "0"
    assert page.input_value("#set-guidance") == "7.5"
    page.keyboard.press("Control+z")
    assert page.input_value("#set-guidance") == "5"


def test_erasing_goes_to_the_output_folder_and_its_settings_come_back(page: Any, tmp_path: Path) -> None:
    open_source(page)
    paint_box(page)
    page.select_option("#set-model", "cv2")
    for hidden in ("#exemplars", "#set-feather", "#set-guidance"):
        assert page.locator(hidden).is_hidden()
    page.click("#run")
    page.wait_for_selector("#film button", timeout=PATIENCE)
    assert page.inner_text("#film button") == "cv2"
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / "erased.png"
    download.value.save_as(path)
    assert download.value.suggested_filename == "picture-1-cv2.png"

    page.select_option("#set-model", "embedded")
    choose(page, "#load-settings", {"name": "r.png", "mimeType": "image/png", "buffer": path.read_bytes()})
    until(page, "document.querySelector('#set-model').value === 'cv2'")
    page.click("#undo")
    assert page.input_value("#set-model") == "embedded"

    page.click("#browse")
    page.get_by_role("button", name="Output").click()
    page.locator(".files button").first.click()
    until(page, "!document.querySelector('#shown button:nth-child(2)').matches('[aria-pressed=true]')")
    assert not mask(page).any()  # another photograph: the result, as it lies in the folder


def test_several_dropped_pictures_are_asked_about_one_by_one(page: Any) -> None:
    open_source(page)
    page.evaluate(
        """async () => {
          const data = new DataTransfer();
          for (const name of ["one.png", "two.png"]) {
            const canvas = new OffscreenCanvas(30, 30);
            canvas.getContext("2d").fillRect(0, 0, 30, 30);
            data.items.add(new File([await canvas.convertToBlob()], name, { type: "image/png" }));
          }
          document.querySelector("#stage").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
        }"""
    )
    for number, name in enumerate(("one.png", "two.png"), 1):
        page.wait_for_selector(f"dialog:has-text('{name}')")
        assert page.locator("dialog").count() == 1
        page.click("#asExemplar")
        until(page, f"document.querySelectorAll('.tile').length === {number}")
