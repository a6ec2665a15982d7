"""The page under fingers and pens."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.page_client import PATIENCE, mask, on_screen, open_source, opened

Place = tuple[float, float]


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Any]:
    pages = opened(browser, address, has_touch=True)
    page = next(pages)
    page.set_viewport_size({"width": 390, "height": 780})
    open_source(page)
    yield page
    for _ in pages:
        pass


class Fingers:
    """Fingers on the screen, by the browser's own protocol: Playwright's taps know only one."""

    def __init__(self, page: Any) -> None:
        self.page, self.devtools = page, page.context.new_cdp_session(page)

    def send(self, what: str, *places: Place) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        self.devtools.send("Input.dispatchTouchEvent", {"type": what, "touchPoints": points})

    def pen(self, what: str, place: Place) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1, "force": 0.5} if what != "mouseReleased" else {}
        event = {"type": what, "x": place[0], "y": place[1], "pointerType": "pen", "button": "left", **pressed}
        self.devtools.send("Input.dispatchMouseEvent", event)


def shown_scale(page: Any) -> int:
    page.wait_for_timeout(100)
    return int(page.inner_text("#zoom").removesuffix("%"))


def test_a_phone_shows_it_without_scrolling_sideways_and_fingers_draw(phone: Any) -> None:
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.touchscreen.tap(*on_screen(phone, 160, 120))
    assert mask(phone)[120, 160]
    assert phone.get_by_role("button", name="Open photograph").is_visible()  # only its icon is, but it is read aloud
    run = phone.locator("#run").bounding_box()
    assert run["y"] + run["height"] <= 780  # at hand wherever the page is scrolled to


def test_one_finger_draws_where_it_was_put_down(phone: Any) -> None:
    fingers = Fingers(phone)
    fingers.send("touchStart", on_screen(phone, 60, 120))
    for x in range(70, 260, 10):
        fingers.send("touchMove", on_screen(phone, x, 120))
    fingers.send("touchEnd")
    drawn = mask(phone)
    assert drawn[120, 60:250].all()
    assert not drawn[20].any()


def test_two_fingers_zoom_and_move_and_draw_nothing(phone: Any) -> None:
    fingers = Fingers(phone)
    before = shown_scale(phone)
    left, right = on_screen(phone, 140, 120), on_screen(phone, 180, 120)
    fingers.send("touchStart", left)
    fingers.send("touchStart", left, right)
    for apart in range(0, 60, 6):
        fingers.send("touchMove", (left[0] - apart, left[1]), (right[0] + apart, right[1]))
    assert shown_scale(phone) > 1.5 * before
    fingers.send("touchEnd", (left[0] - 54, left[1]))
    fingers.send("touchMove", (left[0], left[1] + 80))  # the finger that stays
    fingers.send("touchEnd")
    assert not mask(phone).any()
    assert phone.locator("#undo").is_enabled()  # the photograph, and nothing else
    phone.click("#undo")
    assert phone.locator("#stage.empty").count() == 1


def test_zooming_leaves_a_polygon_as_it_is(phone: Any) -> None:
    fingers = Fingers(phone)
    phone.click("#tool-polygon")
    for corner in ((20, 20), (140, 20), (20, 140)):
        phone.touchscreen.tap(*on_screen(phone, *corner))
    middle = on_screen(phone, 200, 160)
    beside = (middle[0] + 40, middle[1])
    fingers.send("touchStart", middle)
    fingers.send("touchStart", middle, beside)
    fingers.send("touchMove", middle, (beside[0] + 20, beside[1]))
    fingers.send("touchEnd")
    phone.click("#fit")
    phone.touchscreen.tap(*on_screen(phone, 22, 22))  # near enough to the first corner
    assert mask(phone).sum() == pytest.approx(120 * 120 / 2, rel=0.1)


def test_the_hand_that_holds_a_pen_draws_nothing(phone: Any) -> None:
    fingers = Fingers(phone)
    fingers.send("touchStart", on_screen(phone, 280, 200))
    fingers.pen("mousePressed", on_screen(phone, 60, 40))
    fingers.pen("mouseMoved", on_screen(phone, 120, 40))
    fingers.send("touchMove", on_screen(phone, 200, 230))
    fingers.pen("mouseMoved", on_screen(phone, 180, 40))
    fingers.pen("mouseReleased", on_screen(phone, 180, 40))
    fingers.send("touchEnd")
    drawn = mask(phone)
    assert drawn[40, 60:180].all()
    assert not drawn[120:].any()
    phone.evaluate("scrollTo(0, 0)")
    fingers.send("touchStart", on_screen(phone, 280, 200))
    fingers.send("touchMove", on_screen(phone, 240, 200))
    fingers.send("touchEnd")
    assert mask(phone)[200, 240:280].all()  # without the pen, a finger draws again
    assert np.count_nonzero(drawn) < np.count_nonzero(mask(phone))


def test_two_fingers_look_closer_at_a_result(phone: Any) -> None:
    fingers = Fingers(phone)
    phone.click("#tool-box")
    fingers.send("touchStart", on_screen(phone, 100, 80))
    fingers.send("touchMove", on_screen(phone, 200, 160))
    fingers.send("touchEnd")
    phone.select_option("#set-model", "cv2")
    phone.click("#run")
    phone.wait_for_selector("#film button", timeout=PATIENCE)
    phone.evaluate("scrollTo(0, 0)")
    phone.click("#show-split")
    before, border = shown_scale(phone), int(phone.input_value("#split"))
    slider = phone.locator("#split").bounding_box()
    x, y = slider["x"] + 20 + (slider["width"] - 40) * border / 1000, slider["y"] + slider["height"] / 2
    fingers.send("touchStart", (x, y))
    for by in range(10, 90, 10):
        fingers.send("touchMove", (x + by, y))
    fingers.send("touchEnd")
    assert int(phone.input_value("#split")) > border + 100
    left, right = on_screen(phone, 60, 200), on_screen(phone, 90, 200)
    fingers.send("touchStart", left)
    fingers.send("touchStart", left, right)
    fingers.send("touchMove", (left[0] - 30, left[1]), (right[0] + 30, right[1]))
    fingers.send("touchEnd")
    assert shown_scale(phone) > before
    assert phone.get_attribute("#show-split", "aria-pressed") == "true"
