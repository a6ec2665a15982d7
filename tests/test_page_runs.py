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
