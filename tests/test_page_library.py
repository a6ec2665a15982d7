"""The page's library: looked through, searched, and taken from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paint_by_example import load_pipeline
from paint_by_example.library import TextEncoder, add_pictures
from tests import server_client as ask
from tests import tiny
from tests.page_client import alert, open_source, opened, paint_box, until
from tests.test_library_text import save_clip

PICTURES = 14


@pytest.fixture(scope="module")
def library_address(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("kept")
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        tiny.picture(20 + 10 * number, 30, seed=number).save(folder / "pictures" / f"{number:02}.png")
    pipeline = load_pipeline(models["embedded"], "cpu")
    add_pictures(folder / "library", pipeline, [folder / "pictures" / "03.png"], tags=("chair",))
    encoder = TextEncoder(str(save_clip(folder / "clip", 0)))
    add_pictures(folder / "library", pipeline, [folder / "pictures"], text=encoder)
    flags = ("--library", str(folder / "library"))
    with ask.serving(models["embedded"], folder / "state", *flags, log=folder / "log") as server:
        yield server.address


@pytest.fixture
def page(browser: Any, library_address: str) -> Iterator[Any]:
    yield from opened(browser, library_address)


def shown(page: Any) -> list[str]:
    tiles = page.locator("#library-tray .tile > button:first-child")
    return [title.partition(",")[0] for title in tiles.evaluate_all("tiles => tiles.map((one) => one.title)")]


def status(page: Any) -> str:
    return str(page.inner_text(".library-pages p"))


def wait_for(page: Any, first: str) -> None:
    until(page, f"document.querySelector('#library-tray button')?.title.startsWith({first!r})")


def test_the_library_is_looked_through_searched_and_taken_from(page: Any) -> None:
    wait_for(page, "03.png")
    assert status(page) == "1 to 9 of 14"
    page.focus("#library-next")
    page.keyboard.press("Enter")
    wait_for(page, "09.png")
    assert shown(page)[-1] == "13.png"
    assert page.evaluate("document.activeElement.id") == "library-back"  # the other one cannot be pressed any more
    page.select_option("#library-tag", "chair")
    until(page, "document.querySelectorAll('#library-tray .tile').length === 1")
    assert shown(page) == ["03.png"]

    page.click("#libraryFit")
    assert "photograph" in alert(page)
    open_source(page)
    page.select_option("#library-tag", "")
    paint_box(page)  # 160 wide and 120 high
    page.click("#libraryFit")
    until(page, "document.querySelector('#libraryFit').ariaPressed === 'true'")
    assert shown(page)[0] == "02.png"  # 40 wide and 30 high

    page.locator("#library-tray .tile button").first.click()
    page.wait_for_selector("#exemplar-tray .tile")
    assert page.locator("#exemplar-tray img").evaluate("one => [one.naturalWidth, one.naturalHeight]") == [40, 30]
    page.click("#libraryLike")
    until(page, "document.querySelector('#libraryLike').ariaPressed === 'true'")
    assert shown(page)[0] == "02.png"
    other = shown(page)[-1]
    page.get_by_role("button", name=f"More like {other}").click()
    wait_for(page, other)

    page.fill("#library-text", "red chair")
    with page.expect_response(lambda answer: "text=red" in answer.url) as answer:
        page.keyboard.press("Enter")
    wait_for(page, answer.value.json()["pictures"][0]["name"])
    assert page.locator(".library-modes [aria-pressed=true]").count() == 0

    page.click("#language")
    assert page.inner_text("#libraryAll") == "全部"
    assert status(page) == "第 1 至 9 张，共 14 张"
    page.click("#undo")
    assert page.locator("#exemplar-tray .tile").count() == 0
