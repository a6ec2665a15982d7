"""A server in this process, or in one of its own, and edits to send to it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
from PIL import Image

from tests import tiny

SIDES = (48, 40)
SETTINGS: dict[str, Any] = {"steps": 2, "regions": [{"box": [8, 8, 32, 28]}]}


def png(width: int = SIDES[0], height: int = SIDES[1], seed: int = 0, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    tiny.picture(width, height, mode, seed).save(file, "PNG")
    return file.getvalue()


def mask_png(box: tuple[int, int, int, int] = (8, 8, 32, 28), size: tuple[int, int] = SIDES) -> bytes:
    mask = Image.new("L", size)
    mask.paste(255, box)
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def parts(
    source: bytes | None = None, mask: bytes | None = None, exemplar: bytes | None = None, **settings: Any
) -> list[tuple[str, Any]]:
    """The multipart body of an edit: of a box, or of a mask if there is one."""
    files: list[tuple[str, Any]] = [
        ("source", ("room.png", source or png(), "image/png")),
        ("exemplar", ("chair.png", exemplar or png(20, 24, seed=1), "image/png")),
    ]
    asked = {**SETTINGS, **settings}
    if mask is not None:
        files.append(("mask", ("mask.png", mask, "image/png")))
        if "regions" not in settings:
            del asked["regions"]
    files.append(("settings", (None, json.dumps(asked), "application/json")))
    return files


def wait(client: Any, edit: str, seconds: float = 120) -> dict[str, Any]:
    """The edit once it has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        view: dict[str, Any] = client.get(f"/api/edits/{edit}").json()
        if view["state"] not in ("queued", "running"):
            return view
        time.sleep(0.02)
    raise AssertionError(f"the edit is still {view['state']}")


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """A finished event stream as (event, data)."""
    return [(name, json.loads(data)) for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)]


class Process:
    """``pbe serve`` in a process of its own."""

    def __init__(self, model: Path, state: Path, *flags: str, log: Path) -> None:
        self.log = log.open("w+")
        command = [sys.executable, "-m", "paint_by_example", "serve", "--model", str(model), "--device", "cpu"]
        self.process = subprocess.Popen(
            [*command, "--port", "0", "--state-dir", str(state), *flags],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        assert self.address.startswith("http"), self.errors()
        self.client = httpx.Client(base_url=self.address.partition("?")[0], timeout=120)

    def errors(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def end(self, how: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(30)
        self.client.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


@contextmanager
def serving(model: Path, state: Path, *flags: str, log: Path) -> Iterator[Process]:
    server = Process(model, state, *flags, log=log)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)
        server.log.close()
