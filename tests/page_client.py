"""The page in a browser, against a server with the embedded model: fixtures and what hands do there."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests import server_client as ask

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # ms: other work on the machine may slow an edit down


def png(width: int, height: int, seed: int = 0) -> dict[str, Any]:
    return {"name": f"picture-{seed}.png", "mimeType": "image/png", "buffer": ask.png(width, height, seed)}


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    (folder / "garden").mkdir()
    (folder / "garden" / "tree.png").write_bytes(ask.png(64, 64, 3))
    return folder


@pytest.fixture(scope="module")
def address(pictures_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("page")
    flags = ("--input", str(pictures_folder), "--output-dir", str(state / "results"))
    with ask.serving(Path("embedded"), state / "state", *flags, log=state / "log") as server:
        yield server.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
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
