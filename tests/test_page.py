"""The page, in a browser, against a server with the embedded model."""

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import server_client as ask

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium: apt-get install chromium")
PATIENCE = 120_000  # ms: other work on the machine may slow an edit down


def png(width: int, height: int, seed: int = 0) -> dict[str, Any]:
    return {"name": f"picture-{seed}.png", "mimeType": "image/png", "buffer": ask.png(width, height, seed)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    (folder / "garden").mkdir()
    (folder / "garden" / "tree.png").write_bytes(ask.png(64, 64, 3))
    return folder


@pytest.fixture(scope="module")
def address(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("page")
    with ask.serving(Path("embedded"), state / "state", "--input", str(folder), log=state / "log") as server:
        yield server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """The page; afterwards, that nothing complained and nothing was asked of another machine."""
    context = browser.new_context(viewport={"width": 1280, "height": 760}, locale="en-GB", **options)
    page = context.new_page()
    complaints: list[str] = []
    elsewhere: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    local = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(local) else elsewhere.append(asked.url))
    page.goto(address)
    page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
    yield page
    expected = getattr(page, "expected_complaints", ())
    context.close()
    assert [one for one in complaints if not any(part in one for part in expected)] == []
    assert elsewhere == []


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    yield from opened(browser, address)


def choose(page: Any, button: str, file: dict[str, Any]) -> None:
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(file)


def until(page: Any, condition: str) -> None:
    """Wait for a condition in JavaScript. Playwright's own way evaluates it in the page, which the policy forbids."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def open_source(page: Any, width: int = 320, height: int = 240, seed: int = 1) -> None:
    choose(page, "#welcome-open", png(width, height, seed))
    page.wait_for_selector("#stage:not(.empty)")
    page.wait_for_timeout(150)


def on_screen(page: Any, x: float, y: float, size: tuple[int, int] = (320, 240)) -> tuple[float, float]:
    """Where a point of the fitted picture is on the screen."""
    stage = page.locator("#stage").bounding_box()
    margin = min(28, stage["width"] * 0.04)
    scale = min((stage["width"] - 2 * margin) / size[0], (stage["height"] - 2 * margin) / size[1], 4)
    left = stage["x"] + (stage["width"] - size[0] * scale) / 2
    top = stage["y"] + (stage["height"] - size[1] * scale) / 2
    return left + x * scale, top + y * scale


def drag(page: Any, *points: tuple[float, float]) -> None:
    page.mouse.move(*on_screen(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*on_screen(page, *point), steps=6)
    page.mouse.up()


def mask(page: Any) -> NDArray[np.bool_]:
    with page.expect_download() as download:
        page.click("#mask-saveMask")
    image = Image.open(download.value.path())
    return np.asarray(image.convert("L")) >= 128


def alert(page: Any) -> str:
    return str(page.locator("#alerts .message span").last.inner_text())


def paint_box(page: Any) -> None:
    page.click("#tool-box")
    drag(page, (80, 60), (240, 180))


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


def test_tools_draw_what_they_say_and_all_can_be_undone(page: Any) -> None:
    open_source(page)
    paint_box(page)
    box = np.zeros((240, 320), bool)
    box[60:180, 80:240] = True
    assert (mask(page) != box).mean() < 0.01
    page.click("#tool-eraser")
    page.mouse.move(*on_screen(page, 160, 120))
    page.mouse.down()
    page.mouse.up()
    assert not mask(page)[120, 160]
    assert mask(page)[65, 85]
    page.click("#undo")
    assert (mask(page) != box).mean() < 0.01
    page.click("#redo")
    assert not mask(page)[120, 160]
    page.click("#mask-invert")
    assert mask(page)[120, 160]
    assert not mask(page)[65, 85]
    page.click("#mask-clear")
    assert not mask(page).any()
    page.click("#tool-lasso")
    drag(page, (50, 50), (150, 50), (150, 150), (50, 150))
    assert mask(page)[100, 100]
    assert mask(page).sum() == pytest.approx(100 * 100, rel=0.1)
    page.click("#mask-clear")
    page.click("#tool-polygon")
    for corner in ((20, 20), (120, 20), (20, 120)):
        page.mouse.click(*on_screen(page, *corner))
    page.mouse.click(*on_screen(page, 20, 20))  # the first corner closes it
    assert mask(page).sum() == pytest.approx(100 * 100 / 2, rel=0.1)
    for _ in range(8):
        page.click("#undo")
    assert page.locator("#stage.empty").count() == 1  # the photograph, too


def test_a_mask_grows_shrinks_and_is_read_again(page: Any) -> None:
    open_source(page)
    given = ask.mask_png((100, 80, 200, 160), (320, 240))
    choose(page, "#mask-uploadMask", {"name": "mask.png", "mimeType": "image/png", "buffer": given})
    page.wait_for_timeout(200)
    shown = np.asarray(Image.open(io.BytesIO(given))) > 0
    np.testing.assert_array_equal(mask(page), shown)
    disc = np.hypot(*np.mgrid[-2:3, -2:3]).astype(float) <= 2
    page.click("#mask-grow")
    np.testing.assert_array_equal(mask(page), cv2.dilate(shown.astype(np.uint8), disc.astype(np.uint8)) > 0)
    page.click("#undo")
    page.click("#mask-shrink")
    np.testing.assert_array_equal(mask(page), cv2.erode(shown.astype(np.uint8), disc.astype(np.uint8)) > 0)
    wrong = ask.mask_png((0, 0, 9, 9), (300, 300))
    choose(page, "#mask-uploadMask", {"name": "mask.png", "mimeType": "image/png", "buffer": wrong})
    page.wait_for_selector("#alerts .message")
    assert "300×300" in alert(page)


def test_distances_are_exact(page: Any) -> None:
    random = np.random.default_rng(0)
    for height, width, share in ((17, 23, 0.05), (1, 9, 0.3), (12, 1, 0.3)):
        inside = random.random((height, width)) < share
        inside[0, 0] = True
        found = page.evaluate(
            """async ([pixels, width, height]) => {
              const { squaredDistances } = await import("/page/shape.js");
              return [...squaredDistances(Uint8Array.from(pixels), width, height)];
            }""",
            [[int(value) * 255 for value in inside.ravel()], width, height],
        )
        ys, xs = np.nonzero(inside)
        y, x = np.mgrid[:height, :width]
        expected = ((y[..., None] - ys) ** 2 + (x[..., None] - xs) ** 2).min(-1)
        np.testing.assert_array_equal(np.reshape(found, (height, width)), expected)


def test_a_thin_stroke_is_warned_of(page: Any) -> None:
    open_source(page)
    page.click("#tool-brush")
    paint_box(page)
    page.wait_for_timeout(600)
    assert page.locator("#warning").is_hidden()
    page.click("#mask-clear")
    page.click("#tool-box")
    drag(page, (20, 100), (300, 103))
    page.wait_for_selector("#warning:visible")
    assert "thinner" in page.locator("#warning").inner_text()


def test_the_keyboard_alone_draws_and_sizes(page: Any) -> None:
    open_source(page)
    page.focus("#stage")
    size = int(page.inner_text("#size-shown"))
    page.keyboard.press("]")
    assert int(page.inner_text("#size-shown")) > size
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    drawn = mask(page)
    assert drawn[125, 165]
    assert drawn.sum() > 500
    page.keyboard.press("Control+z")
    assert not mask(page).any()
    page.keyboard.press("?")
    assert page.locator("dialog .keys div").count() > 12
    page.keyboard.press("Escape")
    page.mouse.move(*on_screen(page, 50, 50))
    page.click("#tool-brush")
    page.mouse.move(*on_screen(page, 50, 50))
    size = int(page.inner_text("#size-shown"))
    page.mouse.wheel(0, 200)
    until(page, f"Number(document.querySelector('#size-shown').textContent) < {size}")


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


def test_an_exemplar_is_cropped_and_turned(page: Any) -> None:
    choose(page, "#add-exemplar", png(80, 40, 2))
    page.wait_for_selector(".tile")
    page.click(".tile .corner button")
    page.get_by_role("button", name="Rotate right").click()
    page.focus("#crop")
    for _ in range(25):
        page.keyboard.press("Shift+ArrowUp")  # half of it stays
    page.click("#apply-crop")
    sides = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    assert page.locator(".tile img").evaluate(sides) == [40, 40]
    page.click("#undo")
    assert page.locator(".tile img").evaluate(sides) == [80, 40]


def test_pictures_come_from_the_folder_and_by_paste(page: Any) -> None:
    page.click("#browse")
    page.get_by_role("button", name="garden").click()
    page.get_by_role("button", name="tree.png").click()
    page.wait_for_selector("#stage:not(.empty)")
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(30, 30);
          canvas.getContext("2d").fillRect(0, 0, 30, 30);
          const data = new DataTransfer();
          data.items.add(new File([await canvas.convertToBlob()], "pasted.png", { type: "image/png" }));
          document.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }"""
    )
    page.click("#asExemplar")
    page.wait_for_selector(".tile")


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
def test_large_pictures_are_masked_at_a_limited_size_and_sent_whole(page: Any) -> None:
    choose(page, "#welcome-open", png(4096, 2304, 1))
    page.wait_for_selector("#stage:not(.empty)", timeout=PATIENCE)
    page.wait_for_timeout(300)
    page.click("#tool-box")
    page.mouse.move(*on_screen(page, 1000, 1000, (4096, 2304)))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 2000, 2000, (4096, 2304)))
    page.mouse.up()
    drawn = mask(page)
    assert drawn.shape == (2304, 4096)
    assert drawn[1500, 1500]
    assert drawn.sum() == pytest.approx(1000 * 1000, rel=0.05)


def test_both_languages_have_all_words_and_are_shown(page: Any) -> None:
    english, chinese = page.evaluate(
        """async () => Promise.all(["en", "zh"].map(async (one) => (await import(`/page/words-${one}.js`)).default))"""
    )
    assert english.keys() == chinese.keys()
    used = set()
    folder = Path(__file__).parents[1] / "src" / "paint_by_example" / "server" / "page"
    for file in (*folder.glob("*.js"), folder / "index.html"):
        used |= set(re.findall(r'\bsay\("(\w+)"', file.read_text()))
        used |= set(re.findall(r'data-(?:say|title|label)="(\w+)"', file.read_text()))
    assert used <= english.keys()
    page.click("#language")
    assert page.inner_text("#run") == "绘制"
    assert page.get_attribute("html", "lang") == "zh-CN"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([type=file]), select")]
          .filter((one) => one.checkVisibility() && one.getAttribute("aria-hidden") !== "true")
          .filter((one) => !(one.innerText?.trim() || one.ariaLabel || one.title || one.labels?.length))
          .map((one) => one.outerHTML)"""
    )
    assert unnamed == []


def test_a_phone_shows_it_without_scrolling_sideways_and_fingers_draw(browser: Any, address: str) -> None:
    pages = opened(browser, address, has_touch=True)
    page = next(pages)
    page.set_viewport_size({"width": 390, "height": 780})
    open_source(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.touchscreen.tap(*on_screen(page, 160, 120))
    assert mask(page)[120, 160]
    for _ in pages:
        pass
