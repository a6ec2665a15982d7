"""Does the page keep up with the hand on a photograph of 3840 x 2160 pixels?

    python benchmarks/page_frames.py [--json]

A server with the embedded model on 127.0.0.1, Debian's Chromium without a window, and a mouse that draws, zooms, moves
the picture and grows the mask. For each, the durations of the frames meanwhile and in the half second after.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = (3840, 2160)
MOVES = 120  # of the mouse in a stroke
RECORD = """() => {
  const frames = (window.frames_ = []);
  let last = performance.now();
  const tick = () => {
    if (window.frames_ !== frames) return;
    frames.push(performance.now() - last);
    last = performance.now();
    requestAnimationFrame(tick);
  };
  requestAnimationFrame(tick);
}"""


@dataclass
class Options:
    """Measure frames."""

    json: bool = False
    """Print one JSON object a line."""


@dataclass
class Row:
    """Frames during one thing that is done; milliseconds."""

    what: str
    median: float
    most: float
    """95% are at most so long."""
    longest: float


def photograph() -> bytes:
    """A smooth picture with some noise, as a JPEG file."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    waves = np.stack([128 + 80 * np.sin(x / 300 + channel) * np.cos(y / 200) for channel in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    file = io.BytesIO()
    Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def measure(page: Any, what: str, act: Callable[[], Any]) -> Row:
    """Do something and look at the frames."""
    page.evaluate(RECORD)
    act()
    page.wait_for_timeout(500)
    frames = sorted(page.evaluate("() => { const all = window.frames_; window.frames_ = null; return all.slice(1); }"))
    return Row(what, *(round(frames[round(share * (len(frames) - 1))], 1) for share in (0.5, 0.95, 1)))


def rows(page: Any) -> list[Row]:
    """What is done with the mouse, one after another."""
    box = page.locator("#stage").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def stroke(y: float) -> None:
        page.mouse.move(*at(0.2, y))
        page.mouse.down()
        for move in range(MOVES):
            page.mouse.move(*at(0.2 + 0.6 * move / MOVES, y + 0.005 * (move % 20)))
        page.mouse.up()

    def zoom() -> None:
        page.mouse.move(*at(0.5, 0.5))
        page.keyboard.down("Control")
        for _ in range(30):
            page.mouse.wheel(0, -40)
            page.wait_for_timeout(16)
        page.keyboard.up("Control")

    def move() -> None:
        page.keyboard.press("h")
        page.mouse.move(*at(0.7, 0.7))
        page.mouse.down()
        for step in range(60):
            page.mouse.move(*at(0.7 - 0.4 * step / 60, 0.7 - 0.4 * step / 60))
            page.wait_for_timeout(10)
        page.mouse.up()
        page.keyboard.press("b")

    return [
        measure(page, "stroke", lambda: stroke(0.4)),
        measure(page, "another stroke", lambda: stroke(0.6)),
        measure(page, "undo", lambda: page.keyboard.press("Control+z")),
        measure(page, "invert", lambda: page.keyboard.press("i")),
        measure(page, "grow", lambda: page.click("#mask-grow")),
        measure(page, "zoom", zoom),
        measure(page, "move the picture", move),
        measure(page, "stroke, zoomed", lambda: stroke(0.5)),
    ]


def main() -> None:
    """Print a row for each thing that is done."""
    options = tyro.cli(Options, description=__doc__)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests import server_client

    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        with server_client.serving(Path("embedded"), folder / "state", log=folder / "log") as server:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(server.address)
            page.wait_for_selector("body[data-ready]")
            with page.expect_file_chooser() as chooser:
                page.click("#welcome-open")
            chooser.value.set_files({"name": "large.jpg", "mimeType": "image/jpeg", "buffer": photograph()})
            page.wait_for_selector("#stage:not(.empty)")
            page.wait_for_timeout(1000)
            for row in map(asdict, rows(page)):
                print(json.dumps(row) if options.json else "  ".join(f"{key} {value}" for key, value in row.items()))
            browser.close()


if __name__ == "__main__":
    main()
