"""The page: drawing, pictures, keyboard, languages."""

import io
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests import server_client as ask
from tests.page_client import PATIENCE, alert, choose, drag, mask, on_screen, open_source, paint_box, png, until


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


def test_another_tab_takes_no_pictures_away(page: Any, address: str) -> None:
    open_source(page)
    page.wait_for_timeout(1000)  # it is stored
    other = page.context.new_page()
    other.goto(address)
    other.wait_for_selector("#stage:not(.empty)", timeout=PATIENCE)
    choose(other, "#open-source", png(200, 200, 2))
    other.wait_for_timeout(1000)
    other.reload()  # what nothing needs any more is forgotten now, and that is the first tab's photograph
    other.wait_for_selector("body[data-ready]", timeout=PATIENCE)
    other.close()
    paint_box(page)
    drawn = mask(page)
    page.wait_for_timeout(1000)
    page.reload()
    page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
    np.testing.assert_array_equal(mask(page), drawn)


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


@pytest.mark.parametrize(
    ("source", "box", "warned"),
    [
        ((640, 480), (100, 100, 500, 120), 40),  # 640 pixels become the model's 128: a cell is 40 pixels
        ((640, 480), (100, 100, 500, 160), None),
        ((3840, 2160), (0, 0, 3840, 2), 240),  # hardly a pixel of the mask, which is kept smaller
        ((3840, 2160), (3000, 2000, 3300, 2150), None),
        ((300, 300), (0, 0, 300, 300), None),
    ],
)
def test_what_is_thinner_than_a_cell_of_the_model_is_thin(
    page: Any, source: tuple[int, int], box: tuple[int, int, int, int], warned: int | None
) -> None:
    found = page.evaluate(
        """async ([[width, height], [left, top, right, bottom]]) => {
          const { emptyMask, capture, context2d } = await import("/page/mask.js");
          const { thinnest } = await import("/page/warning.js");
          const empty = emptyMask(width, height);
          const context = context2d(Object.assign(document.createElement("canvas"), empty));
          const scale = empty.width / width;
          context.fillRect(left * scale, top * scale, (right - left) * scale, (bottom - top) * scale);
          return thinnest(capture(empty, context), { width, height }, 128);
        }""",
        [source, box],
    )
    assert found == warned


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


def test_the_focus_stays_when_what_had_it_goes(page: Any) -> None:
    page.focus("#welcome-example")
    page.keyboard.press("Enter")
    page.wait_for_selector(".tile")
    focused = "document.activeElement.id"
    assert page.evaluate(focused) == "stage"
    page.focus(".tile .corner button:last-child")
    page.keyboard.press("Enter")
    assert page.evaluate(focused) == "drop-exemplar"
    page.click("#add-region")
    page.locator(".region .small").last.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.closest('#regions') !== null")


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


def test_the_server_s_picture_is_opened_and_then_what_was_made_of_it(browser: Any, tmp_path: Path) -> None:
    """Also where the page was used for another picture before, which comes back with undo."""
    context = browser.new_context(viewport={"width": 1280, "height": 760}, locale="en-GB")
    page = context.new_page()
    port: tuple[str, ...] = ()
    for width in (320, 200):
        picture = tmp_path / f"picture-{width}.png"
        picture.write_bytes(ask.png(width, 240, width))
        log = tmp_path / f"log-{width}"
        flags = ("--input", str(picture), *port)
        with ask.serving(Path("embedded"), tmp_path / "state", *flags, log=log) as server:
            port = ("--port", str(server.client.base_url.port))
            page.goto(server.address)
            page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
            assert mask(page).shape == (240, width)
            if width == 200:
                page.click("#undo")
                assert mask(page).shape == (240, 320)
                page.click("#redo")
            page.click("#mask-invert")
            page.wait_for_timeout(1000)
            page.reload()
            page.wait_for_selector("body[data-ready]", timeout=PATIENCE)
            assert mask(page).all()  # not opened anew
    context.close()
