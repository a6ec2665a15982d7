"""Many clients at a server at once: does each get its own picture back, and what do batches and the queue bring?

    python benchmarks/server_load.py [--clients 50 --edits 5] [--batch 8] [--json]

A real server on 127.0.0.1 with the tiny model of tests/tiny.py. Every client sends its edits one after another, each
with a source, exemplar and seed of its own, and cancels one in ten on the way. Then some of these edits are sent again
by one client, each when the one before is done: their results are what the others must have been, and their rate is
what the rate of all is compared with. With ``--batch``, results may differ from those by the rounding of kernels.
"""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2 as httpx
import numpy as np
import tyro
from PIL import Image

SIZE = (48, 40)
BOX = (8, 8, 32, 28)
CANCELLED = 10  # one edit in so many
ROUNDING = 1  # of 255, between edits made together and alone
ENDED = ("done", "failed", "cancelled", "interrupted")


@dataclass
class Options:
    """Send many edits at once."""

    clients: int = 50
    """At once."""
    edits: int = 5
    """Of each client, one after another."""
    steps: int = 10
    """Of each edit."""
    queue: int = 32
    """Edits that may wait; those who find it full come again when the server says."""
    batch: int = 1
    """Edits that may share the network's calls."""
    one_by_one: int = 25
    """Edits to send one by one, for the rate to compare with."""
    model: Path | None = None
    """Folder of a model; the tiny one if not given."""
    json: bool = False
    """Print one JSON object."""


@dataclass
class Report:
    """What came of it."""

    done: int
    cancelled: int
    failed: int
    lost: int
    """Accepted, and never ended."""
    refused: int
    """Answers that the queue was full."""
    mixed_up: int
    """Results that are not those of the edit that was sent."""
    compared: int
    """Results that were compared with those of edits alone; all are compared with their source outside the box."""
    rate_ratio: float
    """Edits a second of all clients, to those of one client whose edits are sent one by one."""
    work_ratio: float
    """Processor time of the server for an edit among those of all clients, to that for one sent by itself."""
    lanes: int
    """Edits that shared the network's calls, after the server measured."""
    mean_batch: float
    """Edits in a call."""
    memory_growth: float
    """Resident memory at the end, to that after the first fifth of the edits, less 1."""


@dataclass
class Outcome:
    """Of one edit."""

    state: str
    number: int
    result: bytes | None
    refused: int


def picture(number: int, size: tuple[int, int]) -> Image.Image:
    """Noise that only this edit has."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def send(client: httpx.Client, number: int, steps: int, cancel: bool) -> Outcome:
    """Send an edit, come again while the queue is full, wait for the end."""
    files = {
        "source": (f"source-{number}.png", encoded(picture(number, SIZE))),
        "exemplar": (f"exemplar-{number}.png", encoded(picture(100_000 + number, (20, 24)))),
    }
    settings = {"seeds": [number], "steps": steps, "regions": [{"box": BOX}]}
    refused = 0
    while True:
        answer = client.post("/api/edits", files=files, data={"settings": json.dumps(settings)})
        if answer.status_code != 503:
            break
        refused += 1
        time.sleep(float(answer.headers["retry-after"]))
    answer.raise_for_status()
    edit = answer.json()
    if cancel:
        client.post(f"/api/edits/{edit['id']}/cancel").raise_for_status()
    try:
        with client.stream("GET", f"/api/edits/{edit['id']}/events?previews=0") as events:
            for _ in events.iter_lines():
                pass  # it ends with the edit
    except httpx.TimeoutException:
        return Outcome("lost", number, None, refused)
    edit = client.get(f"/api/edits/{edit['id']}").raise_for_status().json()
    if edit["state"] not in ENDED:
        return Outcome("lost", number, None, refused)
    if edit["state"] != "done":
        return Outcome(edit["state"], number, None, refused)
    assert edit["name"] == f"source-{number}"
    return Outcome("done", number, client.get(edit["results"][0]["url"]).raise_for_status().content, refused)


def differs(result: bytes, expected: bytes, most: int) -> bool:
    one, other = (np.asarray(Image.open(io.BytesIO(content))).astype(int) for content in (result, expected))
    return bool(np.abs(one - other).max() > most)


def own_outside(outcome: Outcome) -> bool:
    """Whether a result is its own source outside the box, bit for bit, and its record that of its seed."""
    assert outcome.result is not None
    with Image.open(io.BytesIO(outcome.result)) as shown:
        result, seed = np.asarray(shown), json.loads(shown.info["paint_by_example"])["seed"]
    source, outside = np.asarray(picture(outcome.number, SIZE)), np.ones(SIZE[::-1], bool)
    outside[BOX[1] : BOX[3], BOX[0] : BOX[2]] = False
    return bool((result[outside] == source[outside]).all()) and seed == outcome.number


def counted(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def run(options: Options, folder: Path) -> Report:
    """Start a server, send, compare, end it."""
    model = options.model
    if model is None:
        from tests import tiny

        model = folder / "model"
        tiny.embedded_pipeline().save_pretrained(model)
    command = [
        sys.executable,
        "-m",
        "paint_by_example",
        "serve",
        "--model",
        str(model),
        "--device",
        "cpu",
        "--port",
        "0",
    ]
    command += ["--state-dir", str(folder / "state"), "--queue", str(options.queue), "--batch", str(options.batch)]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        return _measure(options, address)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
        if server.stdout is not None:
            server.stdout.close()


def _measure(options: Options, address: str) -> Report:
    total = options.clients * options.edits
    outcomes: list[Outcome] = []
    memory: list[float] = []
    lock = threading.Lock()

    def one_client(client_number: int) -> None:
        with httpx.Client(base_url=address, timeout=300) as client:
            for number in range(client_number, total, options.clients):
                outcome = send(client, number, options.steps, cancel=number % CANCELLED == CANCELLED - 1)
                resident = counted(client, "process_resident_memory_bytes")
                with lock:
                    outcomes.append(outcome)
                    memory.append(resident)

    with httpx.Client(base_url=address, timeout=300) as client:
        send(client, total, options.steps, cancel=False)  # what is loaded at first use is loaded now
        worked, started = counted(client, "process_cpu_seconds_total"), time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(options.clients) as pool:
            list(pool.map(one_client, range(options.clients)))
        together = time.perf_counter() - started
        worked_together = counted(client, "process_cpu_seconds_total") - worked
        done = [outcome for outcome in outcomes if outcome.state == "done"]
        calls, shared = (counted(client, f"pbe_batch_size_{what}") for what in ("count", "sum"))

        chosen = sorted(done, key=lambda outcome: outcome.number)[:: max(len(done) // options.one_by_one, 1)]
        worked, started = counted(client, "process_cpu_seconds_total"), time.perf_counter()
        alone = [send(client, outcome.number, options.steps, cancel=False) for outcome in chosen]
        seconds = (time.perf_counter() - started) / max(len(alone), 1)
        worked_alone = (counted(client, "process_cpu_seconds_total") - worked) / max(len(alone), 1)

    most = 0 if options.batch == 1 else ROUNDING
    wrong = {outcome.number for outcome in done if not own_outside(outcome)}
    for one, other in zip(chosen, alone, strict=True):
        assert one.result is not None
        if other.result is None or differs(one.result, other.result, most):
            wrong.add(one.number)
    states = [outcome.state for outcome in outcomes]
    fifth = len(memory) // 5
    return Report(
        done=len(done),
        cancelled=states.count("cancelled"),
        failed=states.count("failed") + states.count("interrupted"),
        lost=states.count("lost") + total - len(outcomes),
        refused=sum(outcome.refused for outcome in outcomes),
        mixed_up=len(wrong),
        compared=len(chosen),
        rate_ratio=round(len(done) / together * seconds, 3),
        work_ratio=round(worked_together / len(done) / worked_alone, 3),
        lanes=options.batch if shared else 1,
        mean_batch=round(shared / calls, 2) if calls else 1.0,
        memory_growth=round(max(memory[fifth:]) / max(memory[: fifth + 1]) - 1, 4),
    )


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    with tempfile.TemporaryDirectory() as folder:
        report = asdict(run(options, Path(folder)))
    if options.json:
        print(json.dumps(report))
        return
    for name, value in report.items():
        print(f"{name:15} {value}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
