"""An hour of mixed traffic at a server: does its memory stay flat, and does it answer everybody?

    python benchmarks/soak.py [--minutes 60] [--clients 6]

A real server on 127.0.0.1 with the tiny model of tests/tiny.py and a library of exemplars. Clients send edits of
several sizes and follow them, cancel and remove some, send what cannot be used, ask for maps, search the library, leave
while events or an upload are under way. Printed are latencies and statuses by kind of request, and the server's memory,
threads and open files over time. It fails if one of these grew after the warm-up, or if anything was answered as it
should not be.
"""

from __future__ import annotations

import io
import math
import random
import socket
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx2 as httpx
import numpy as np
import psutil
import tyro
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
from paint_by_example import load_pipeline
from paint_by_example.library import add_pictures
from tests import server_client, tiny

SIZES = ((48, 40), (33, 200), (200, 150), (640, 480))
LIBRARY = 24  # pictures
FLAGS = ("--queue", "4", "--max-upload-mb", "2", "--max-megapixels", "0.5", "--keep-hours", "0.02")
"""Small, so that queues fill, uploads are too large, and edits expire while it runs."""
PAUSE = 0.3  # seconds between two doings of a client, at most
WARM_UP = 0.25  # of the time
LAST = 0.25  # of the time: what is compared with the warm-up
SAMPLES = 200  # over the time
ROWS = 12  # of them that are printed
MEMORY_GROWTH = 0.05  # at most
THREADS_GROWTH = 4.0
FILES_GROWTH = 8.0
CLOSED = 0  # in the place of a status: the server had refused, and closed before all was sent
EXPECTED = {
    "edit: send": {202, 503},
    "edit: remove": {204},
    "bad upload": {400, 413, 422, 503, CLOSED},
    "library: browse": {200, 404},  # pictures like one that was left out as a duplicate
}
"""Statuses of a kind of request; 200 for others."""


@dataclass
class Options:
    """Keep a server busy."""

    minutes: float = 60.0
    """How long."""
    clients: int = 6
    """At once."""
    seed: int = 0
    """Another one makes other traffic."""


class Sample(NamedTuple):
    """The server at a moment."""

    minutes: float
    megabytes: float
    """Resident memory."""
    threads: int
    files: int
    """Open ones, connections too."""
    edits: int
    """On disk."""


@dataclass
class Tally:
    """What was answered, and how fast."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, kind: str, seconds: float, status: int | None = None) -> None:
        """Note a request, or something that took several."""
        with self.lock:
            self.seconds[kind].append(seconds)
            if status is not None:
                self.statuses[kind, status] += 1
                if status not in EXPECTED.get(kind, {200}):
                    self.wrong[f"{kind} was answered with {status}"] += 1

    def blame(self, what: str) -> None:
        """Note what should not have happened."""
        with self.lock:
            self.wrong[what] += 1


class Visitor:
    """A client who does this and that.

    Args:
        address: of the server.
        drawn: decides what.
        tally: to note in.
    """

    def __init__(self, address: str, drawn: random.Random, tally: Tally) -> None:
        self.client, self.drawn, self.tally = httpx.Client(base_url=address, timeout=120), drawn, tally
        self.doings: dict[Callable[[], None], int] = {
            self.edit: 8,
            self.cancelled: 3,
            self.removed: 1,
            self.left: 3,
            self.half_upload: 2,
            self.bad_upload: 5,
            self.maps: 2,
            self.library: 5,
            self.look_around: 4,
        }

    def visit(self, end: float) -> None:
        """Do one after another until the monotonic clock says so."""
        with self.client:
            while time.monotonic() < end:
                (doing,) = self.drawn.choices(list(self.doings), list(self.doings.values()))
                try:
                    doing()
                except httpx.TransportError as error:
                    self.tally.blame(f"{doing.__name__}: {type(error).__name__}")
                time.sleep(self.drawn.uniform(0, PAUSE))

    def ask(self, kind: str, method: str, path: str, **given: Any) -> httpx.Response:
        start = time.perf_counter()
        answer = self.client.request(method, path, **given)
        self.tally.add(kind, time.perf_counter() - start, answer.status_code)
        return answer

    def send(self, **settings: Any) -> str | None:
        """Send an edit; its id, or None where the queue was full."""
        size, seed = self.drawn.choice(SIZES), self.drawn.randrange(3)
        width, height = size
        box = (width // 4, height // 4, width // 4 * 3, height // 4 * 3)
        source, exemplar = server_client.png(*size, seed), server_client.png(24, 20 + 30 * seed, seed=seed)
        place = {"mask": server_client.mask_png(box, size)} if self.drawn.random() < 0.5 else {}
        if not place:
            settings["regions"] = [{"box": box}]
        parts = server_client.parts(source, exemplar=exemplar, **place, **settings)
        answer = self.ask("edit: send", "POST", "/api/edits", files=parts)
        if answer.status_code == 503:
            time.sleep(float(answer.headers.get("retry-after", 1)))
            return None
        return str(answer.json()["id"])

    def follow(self, edit: str, lines: float = math.inf, previews: bool = False) -> None:
        """Read an edit's events, to their end or so many lines."""
        with self.client.stream("GET", f"/api/edits/{edit}/events?previews={int(previews)}") as events:
            for number, _ in enumerate(events.iter_lines()):
                if number >= lines:
                    return

    def edit(self) -> None:
        """Send one, follow it, fetch what came of it."""
        start = time.perf_counter()
        seeds = list(range(self.drawn.randint(1, 3)))
        edit = self.send(seeds=seeds, steps=self.drawn.randint(1, 12))
        if edit is None:
            return
        self.follow(edit, previews=self.drawn.random() < 0.5)
        self.tally.add("edit: until done", time.perf_counter() - start)
        stands = self.ask("edit: look", "GET", f"/api/edits/{edit}").json()
        if stands["state"] != "done" or len(stands["results"]) != len(seeds):
            return self.tally.blame(f"an edit is {stands['state']} with {len(stands['results'])} results")
        for result in stands["results"]:
            content = self.ask("edit: result", "GET", result["url"]).content
            if Image.open(io.BytesIO(content)).size != (result["width"], result["height"]):
                self.tally.blame("a result has another size")

    def cancelled(self) -> None:
        """Think better of it, at once or when it runs."""
        edit = self.send(steps=60)
        if edit is None:
            return
        self.follow(edit, self.drawn.choice((0, 8)))
        self.ask("edit: cancel", "POST", f"/api/edits/{edit}/cancel")
        self.follow(edit)
        if (state := self.ask("edit: look", "GET", f"/api/edits/{edit}").json()["state"]) not in ("cancelled", "done"):
            self.tally.blame(f"a cancelled edit is {state}")

    def removed(self) -> None:
        """Remove one while it waits or runs."""
        if (edit := self.send(steps=20)) is not None:
            self.ask("edit: remove", "DELETE", f"/api/edits/{edit}")

    def left(self) -> None:
        """Go while events come."""
        if (edit := self.send(steps=20)) is not None:
            self.follow(edit, self.drawn.randrange(12), previews=True)

    def half_upload(self) -> None:
        """Go while an upload is under way."""
        host, port = self.client.base_url.host, self.client.base_url.port
        head = f"POST /api/edits HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        part = '--x\r\nContent-Disposition: form-data; name="source"; filename="a.png"\r\n\r\n'
        with socket.create_connection((host, port)) as line:
            line.sendall(f"{head}Content-Length: 900000\r\n\r\n{part}".encode() + bytes(self.drawn.randrange(200_000)))

    def bad_upload(self) -> None:
        """Something that cannot be used."""
        good = server_client.png(64, 48)
        noise = self.drawn.randbytes(2000)
        parts = self.drawn.choice(
            (
                server_client.parts(good[: len(good) // 2]),
                server_client.parts(noise),
                server_client.parts(good, mask=server_client.mask_png(size=(50, 50))),
                server_client.parts(good, steps=-1),
                server_client.parts(good, exemplar=b"-"),
                server_client.parts(server_client.png(1000, 600)),  # too many pixels
                server_client.parts(noise * 1500),  # too many bytes
            )
        )
        start = time.perf_counter()
        try:
            status = self.client.post("/api/edits", files=parts).status_code
        except httpx.TransportError:
            status = CLOSED
        self.tally.add("bad upload", time.perf_counter() - start, status)

    def maps(self) -> None:
        """See what an edit would keep of its source."""
        parts = server_client.parts(server_client.png(*SIZES[2]), structure=self.drawn.choice(("edges", "soft-edges")))
        self.ask("maps", "POST", "/api/structure", files=[part for part in parts if part[0] != "exemplar"])

    def library(self) -> None:
        """Look for an exemplar."""
        count = self.drawn.randint(1, LIBRARY)
        if self.drawn.random() < 0.5:
            files = {"exemplar": ("a.png", server_client.png(40, 40, seed=count))}
            found = self.ask("library: search", "POST", f"/api/library/search?count={count}", files=files)
        else:
            like = self.drawn.choice(("", f"&like={self.drawn.randint(1, LIBRARY)}"))
            found = self.ask("library: browse", "GET", f"/api/library?count={count}{like}")
        for one in found.json().get("pictures", [])[:3]:
            self.ask(
                "library: picture", "GET", f"/api/library/{one['id']}/{self.drawn.choice(('thumbnail', 'picture'))}"
            )

    def look_around(self) -> None:
        """The page, lists, figures."""
        path = self.drawn.choice(("/", "/health", "/metrics", "/api/edits", "/api/models", "/api/server"))
        self.ask(f"GET {path}", "GET", path)


def watch(process: psutil.Process, state: Path, end: float, seconds: float) -> list[Sample]:
    """Look at a server now and then.

    Args:
        process: the server's.
        state: its folder.
        end: until then, by the monotonic clock.
        seconds: from the start to the end.
    """
    samples: list[Sample] = []
    start, every = end - seconds, seconds / SAMPLES
    while (now := time.monotonic()) < end:
        with process.oneshot():
            megabytes, threads, files = process.memory_info().rss / 1e6, process.num_threads(), process.num_fds()
        edits = sum(1 for _ in (state / "edits").iterdir())
        samples.append(Sample((now - start) / 60, megabytes, threads, files, edits))
        time.sleep(max(min(every, end - now), 0))
    return samples


def grown(samples: list[Sample]) -> list[str]:
    """What grew from after the warm-up to the end by more than it may, a line each."""
    count = len(samples)
    before = samples[int(count * WARM_UP) : int(count * (1 - LAST))]
    before, after = before[: max(len(before) // 2, 1)], samples[int(count * (1 - LAST)) :]
    limits = {"megabytes": 0.0, "threads": THREADS_GROWTH, "files": FILES_GROWTH}
    lines = []
    for name, more in limits.items():
        first, last = (median(getattr(sample, name) for sample in part) for part in (before, after))
        limit = first * (1 + MEMORY_GROWTH) if name == "megabytes" else first + more
        print(f"{name}: {first:.1f} after the warm-up, {last:.1f} at the end, {limit:.1f} allowed")
        if last > limit:
            lines.append(f"{name} grew from {first:.1f} to {last:.1f}; {limit:.1f} is allowed")
    return lines


def run(options: Options, folder: Path) -> tuple[Tally, list[Sample], str]:
    """Start a server, keep it busy, end it; the last of what it gives is the server's log."""
    pipeline = tiny.embedded_pipeline()
    pipeline.save_pretrained(folder / "model")
    (folder / "pictures").mkdir()
    for number in range(LIBRARY):
        tiny.picture(20 + 10 * number, 60, seed=number).save(folder / "pictures" / f"{number}.png")
    add_pictures(folder / "library", load_pipeline(folder / "model", "cpu"), [folder / "pictures"])
    flags = ("--library", str(folder / "library"), *FLAGS)
    tally, seconds = Tally(), options.minutes * 60
    with server_client.serving(folder / "model", folder / "state", *flags, log=folder / "log") as server:
        address, end = str(server.client.base_url), time.monotonic() + seconds
        visitors = [
            threading.Thread(
                target=Visitor(address, random.Random(f"{options.seed} {number}"), tally).visit, args=(end,)
            )
            for number in range(options.clients)
        ]
        for visitor in visitors:
            visitor.start()
        samples = watch(psutil.Process(server.process.pid), folder / "state", end, seconds)
        for visitor in visitors:
            visitor.join()
        return tally, samples, server.errors()


def print_report(tally: Tally, samples: list[Sample]) -> None:
    print(f"{'minutes':>8}{'MB':>8}{'threads':>9}{'files':>7}{'edits on disk':>15}")
    for sample in samples[:: max(len(samples) // ROWS, 1)]:
        print(f"{sample.minutes:8.1f}{sample.megabytes:8.1f}{sample.threads:9}{sample.files:7}{sample.edits:15}")
    print(f"\n{'milliseconds':20}{'count':>7}{'50%':>8}{'90%':>8}{'99%':>8}{'most':>8}  statuses")
    for kind, seconds in sorted(tally.seconds.items()):
        figures = "".join(f"{1000 * value:8.0f}" for value in np.quantile(seconds, (0.5, 0.9, 0.99, 1)))
        statuses = sorted((status, n) for (other, status), n in tally.statuses.items() if other == kind)
        shown = ", ".join(f"{status or 'closed'}: {n}" for status, n in statuses)
        print(f"{kind:20}{len(seconds):7}{figures}  {shown}")
    print()


def main() -> int:
    options = tyro.cli(Options, description=__doc__)
    if not (0 < options.minutes < math.inf and options.clients > 0):
        sys.exit("soak: minutes and clients must be above 0")
    with tempfile.TemporaryDirectory() as folder:
        tally, samples, log = run(options, Path(folder))
    print_report(tally, samples)
    wrong = grown(samples) + [f"{what}: {number} times" for what, number in tally.wrong.items()]
    if "Traceback" in log:
        wrong.append(f"the server's log has a traceback:\n{log}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
