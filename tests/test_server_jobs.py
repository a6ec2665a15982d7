"""The queue and its workers, with models that wait until they are told to go on."""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from paint_by_example.batching import SharedNetwork, worthwhile
from paint_by_example.errors import ModelError, UserError
from paint_by_example.server import worker
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.jobs import Job, Jobs, QueueFull
from paint_by_example.server.messages import Edit, Settings
from paint_by_example.server.models import Shelf, Shelved
from paint_by_example.server.painting import Made, OnStep, Part, Progress, Work
from paint_by_example.server.previews import Preview
from paint_by_example.server.store import Store, new_id
from tests import server_client as ask
from tests import tiny

STEPS = 3


class Waiting:
    """A model that takes a step whenever it is let, and notes what it does."""

    kind = "exemplar"
    image_size = 32
    steps = STEPS
    scheduler = None

    def __init__(self, name: str) -> None:
        self.name = name
        self.may = threading.Semaphore(0)
        self.begun: list[str] = []
        self.raises: Exception | None = None

    def network(self) -> None:
        return None

    def edit(self, work: Work, on_step: OnStep) -> list[Made]:
        self.begun.append(work.name)
        for step in range(STEPS):
            assert self.may.acquire(timeout=10)
            on_step(Progress(step + 1, STEPS, 0, (0, 0, 4, 4), lambda: [np.zeros((4, 4, 3), np.uint8)]))
        if self.raises is not None:
            raise self.raises
        return [Made(Image.new("RGB", (4, 4), work.name), seed, {}) for seed in work.settings.seeds]


class FakeShelf(Shelf):
    """Two models, of which one can be asked for at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.made: dict[str, Waiting] = {}
        self.loaded: list[str] = []
        for name in ("one", "two", "broken"):
            self.models[name] = Shelved(name, "exemplar", name)
        self.first = "one"

    def load(self, name: str, device: torch.device) -> Any:
        self.loaded.append(name)
        if name == "broken":
            raise ModelError("this model is broken")
        return self.made.setdefault(name, Waiting(name))


class Bench:
    """Jobs, and what is needed to send and wait for some."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.shelf = FakeShelf()
        self.store = Store(folder, options.pop("keep", 3600.0))
        options = {"capacity": 3} | options
        self.jobs = Jobs(self.shelf, self.store, [torch.device("cpu")] * options.pop("workers", 1), **options)

    def send(self, colour: str = "red", model: str = "one", seeds: tuple[int, ...] = (0,)) -> str:
        name = new_id()
        (self.store.place(name) / "inputs").mkdir(parents=True)
        work = Work(Image.new("RGB", (4, 4)), colour, [Part("", np.ones((4, 4), bool), [], [], None)], Settings())
        settings = Settings(seeds=list(seeds))
        load: Callable[[], Work] = lambda: Work(work.source, work.name, work.parts, settings)  # noqa: E731
        self.jobs.submit(Job(id=name, name=colour, model=model, settings=settings, load=load))
        return name

    def view(self, name: str) -> Edit:
        view = self.jobs.view(name)
        assert view is not None
        return view

    def until(self, name: str, *states: str) -> Edit:
        deadline = time.monotonic() + 10
        while self.view(name).state not in states:
            assert time.monotonic() < deadline, self.view(name)
            time.sleep(0.005)
        return self.view(name)

    def until_begun(self, model: str, edits: int) -> None:
        deadline = time.monotonic() + 10
        while model not in self.shelf.made or len(self.shelf.made[model].begun) < edits:
            assert time.monotonic() < deadline, self.shelf.made
            time.sleep(0.005)

    def go(self, model: str = "one", edits: int = 1) -> None:
        for _ in range(edits * STEPS):
            self.shelf.made[model].may.release()


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Bench]:
    """Jobs at work; in the end every edit may go on, so that they close."""
    bench = Bench(folder)
    bench.jobs.start()
    yield bench
    for model in bench.shelf.made.values():
        model.may.release(100)
    bench.jobs.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with started(tmp_path / "state") as bench:
        yield bench


def test_edits_are_begun_in_order_and_know_their_places(bench: Bench) -> None:
    first = bench.send("red")
    bench.until(first, "running")
    waiting = [bench.send(colour) for colour in ("green", "blue", "black")]
    assert [bench.view(name).place for name in waiting] == [1, 2, 3]
    bench.go()
    bench.until(first, "done")
    bench.until(waiting[0], "running")
    assert [bench.view(name).place for name in waiting] == [None, 1, 2]
    bench.go(edits=3)
    for name in waiting:
        assert bench.until(name, "done").results[0].width == 4
    assert bench.shelf.made["one"].begun == ["red", "green", "blue", "black"]


def test_a_full_queue_refuses_and_says_when_to_come_again(bench: Bench) -> None:
    assert bench.jobs.retry_after() is None
    first = bench.send()
    bench.until(first, "running")
    names = [bench.send() for _ in range(3)]
    assert bench.jobs.retry_after() == 1
    with pytest.raises(QueueFull) as refusal:
        bench.send()
    assert refusal.value.seconds >= 1
    bench.jobs.cancel(names[1])
    assert bench.jobs.retry_after() is None
    bench.send()


def test_a_waiting_edit_is_cancelled_at_once(bench: Bench) -> None:
    first = bench.send()
    bench.until(first, "running")
    second, third = bench.send(), bench.send()
    cancelled = bench.jobs.cancel(second)
    assert cancelled is not None
    assert (cancelled.state, cancelled.place) == ("cancelled", None)
    assert bench.view(third).place == 1
    bench.go(edits=2)
    bench.until(third, "done")
    assert len(bench.shelf.made["one"].begun) == 2


def test_a_running_edit_is_cancelled_at_its_next_step(bench: Bench) -> None:
    first = bench.send()
    bench.until(first, "running")
    bench.jobs.cancel(first)
    assert bench.view(first).state == "running"
    bench.shelf.made["one"].may.release()
    assert bench.until(first, "cancelled").results == []
    assert not list(bench.store.place(first).glob("*.png"))
    second = bench.send()
    bench.go()
    bench.until(second, "done")  # the worker goes on
    assert bench.jobs.cancel(second) == bench.view(second)  # cancelling what has ended changes nothing


def test_removing_a_running_edit_leaves_nothing(bench: Bench) -> None:
    first = bench.send()
    bench.until(first, "running")
    assert bench.jobs.remove(first)
    bench.go()
    deadline = time.monotonic() + 10
    while bench.store.place(first).exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert bench.jobs.view(first) is None


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (UserError("the exemplar is too dull"), "the exemplar is too dull"),
        (ValueError("secret"), "the server could not do this: ValueError; its log says more"),
        (torch.OutOfMemoryError("CUDA"), "there is not enough memory on cpu; ask for fewer candidates"),
    ],
)
def test_an_edit_that_fails_says_why_and_the_next_one_is_done(bench: Bench, error: Exception, shown: str) -> None:
    bench.shelf.made["one"].raises = error
    failed = bench.send()
    bench.go()
    assert bench.until(failed, "failed").error == shown
    bench.shelf.made["one"].raises = None
    good = bench.send()
    bench.go()
    bench.until(good, "done")


def test_another_model_waits_its_turn_and_no_edit_is_dropped(bench: Bench) -> None:
    first = bench.send("red", "one")
    bench.until(first, "running")
    second, third = bench.send("green", "two"), bench.send("blue", "one")
    bench.jobs.choose("two")
    assert bench.shelf.loaded == ["one"]
    bench.go("one")
    bench.until(first, "done")
    bench.until(second, "running")
    bench.until_begun("two", 1)  # the other model goes first, and that takes a while
    assert bench.jobs.loaded() == {"two", "cv2"}
    bench.go("two")
    bench.go("one")
    assert {bench.until(name, "done").model for name in (second, third)} == {"one", "two"}
    assert bench.shelf.loaded == ["one", "two", "one"]


def test_a_model_that_cannot_be_loaded_fails_its_edits_only(bench: Bench) -> None:
    bad, good = bench.send(model="broken"), bench.send(model="one")
    assert bench.until(bad, "failed").error == "this model is broken"
    bench.go("one")
    bench.until(good, "done")


def test_two_workers_take_an_edit_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path, workers=2)
    bench.jobs.start()
    names = [bench.send() for _ in range(3)]
    for name in names[:2]:
        bench.until(name, "running")
    assert bench.view(names[2]).place == 1
    bench.go(edits=3)
    for name in names:
        bench.until(name, "done")
    bench.jobs.close()


def test_time_left_is_told_from_the_steps_and_from_recent_edits(bench: Bench) -> None:
    first = bench.send()
    bench.until(first, "running")
    for _ in range(2):
        bench.shelf.made["one"].may.release()
        time.sleep(0.05)
    left = bench.view(first).seconds_left
    assert left is not None
    assert 0.02 <= left <= 5
    second = bench.send()
    assert bench.view(second).seconds_left is None
    bench.shelf.made["one"].may.release()
    bench.until(first, "done")
    third = bench.send()
    assert (bench.view(third).seconds_left or 0) > 0


def test_a_stop_interrupts_what_waits_and_what_runs(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.jobs.start()
    first = bench.send()
    bench.until(first, "running")
    second = bench.send()
    bench.jobs.stop()
    bench.go()
    bench.jobs.close()
    assert {bench.view(name).state for name in (first, second)} == {"interrupted"}
    with pytest.raises(QueueFull):
        bench.send()


def test_a_start_reports_what_the_last_server_left_and_keeps_what_it_finished(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.jobs.start()
    done = bench.send("lime")
    bench.go()
    bench.until(done, "done")
    running = bench.send()
    bench.until(running, "running")
    waiting = bench.send()
    (bench.store.folder / new_id()).mkdir()  # an upload that was under way
    bench.store.lock.close()  # as if the process had ended: nothing else was told

    after = Bench(tmp_path)
    interrupted = {edit.id for edit in after.jobs.start()}
    assert interrupted == {running, waiting}
    for name in (running, waiting):
        assert after.view(name).state == "interrupted"
        assert [path.name for path in after.store.place(name).iterdir()] == ["edit.json"]
    kept = after.view(done)
    assert kept.state == "done"
    with Image.open(after.jobs.result_path(kept, 0)) as picture:
        assert picture.getpixel((0, 0)) == (0, 255, 0)
    assert len(list(after.store.folder.iterdir())) == 3
    after.jobs.close()
    bench.go()
    bench.jobs.close()


def test_two_servers_do_not_share_a_folder(tmp_path: Path) -> None:
    first = Store(tmp_path, 60)
    with pytest.raises(UserError, match="another server keeps its edits in .*; give --state-dir"):
        Store(tmp_path, 60)
    first.close()
    Store(tmp_path, 60).close()


def test_edits_are_swept_after_their_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, keep=0.2)
    bench.jobs.start()
    old = bench.send()
    bench.go()
    expires = bench.until(old, "done").expires
    assert expires is not None
    running = bench.send()
    bench.until(running, "running")
    time.sleep(0.3)
    assert bench.store.sweep({running}) == 1
    assert bench.jobs.view(old) is None
    assert bench.view(running).state == "running"
    bench.go()
    bench.until(running, "done")
    bench.jobs.close()


def test_results_in_the_output_folder_stay(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    bench = Bench(tmp_path / "state", output_dir=output)
    bench.jobs.start()
    names = [bench.send("red", seeds=(0, 1)), bench.send("blue")]
    bench.go(edits=2)
    views = [bench.until(name, "done") for name in names]
    assert [view.expires for view in views] == [None, None]
    files = sorted(output.iterdir())
    assert len(files) == 3
    assert all(path.name.startswith(("red-", "blue-")) for path in files)
    for view in views:
        for index in range(len(view.results)):
            with Image.open(bench.jobs.result_path(view, index)) as picture:
                assert picture.getpixel((0, 0)) == ((255, 0, 0) if view.name == "red" else (0, 0, 255))
    assert bench.jobs.remove(names[0])
    assert sorted(output.iterdir()) == files
    bench.jobs.close()


def test_a_preview_is_made_only_for_who_looks(bench: Bench) -> None:
    first = bench.send()
    bench.until(first, "running")
    job = bench.jobs.find(first)
    assert job is not None
    bench.shelf.made["one"].may.release()
    deadline = time.monotonic() + 10
    seen: list[Preview] = []
    for previewers in (0, 1):
        job.previewers = previewers
        if previewers:
            bench.shelf.made["one"].may.release()
        while bench.view(first).step < 1 + previewers or len(seen) + (job.preview is not None) < previewers:
            assert time.monotonic() < deadline
        seen += [] if job.preview is None else [job.preview]
    (preview,) = seen  # none of the first step
    assert preview.step == 2
    assert preview.pictures[0].startswith("data:image/jpeg;base64,")


# --- edits that share the network's calls -----------------------------------------------------------------------------


def test_shared_calls_give_each_its_own() -> None:
    """Threads with other steps, solvers, guidance and seeds at once: each result is that made alone, up to rounding."""
    pipeline = tiny.embedded_pipeline()
    asked: list[dict[str, Any]] = [
        {"steps": 3, "seed": 1},
        {"steps": 5, "seed": [2, 3], "scheduler": "ddim"},
        {"steps": 4, "seed": 4, "guidance_scale": 1.0},  # half as many pictures in each call
        {"steps": 6, "seed": 5, "guidance_scale": 2.0, "strength": 0.5},
    ]

    def edit(number: int) -> list[Any]:
        source, exemplar = tiny.picture(48, 40, seed=number), tiny.picture(20, 24, seed=10 + number)
        made = pipeline.edit(source, box=(8, 8, 32, 28), exemplar=exemplar, **asked[number])
        return [np.asarray(image).astype(int) for image in made.images]

    alone = [edit(number) for number in range(len(asked))]
    sizes: list[int] = []
    shared = SharedNetwork(pipeline.unet, sizes.append)
    together = [list[Any]() for _ in asked]
    ready = threading.Barrier(len(asked))

    def run(number: int) -> None:
        with shared.edit():
            ready.wait()
            together[number] = edit(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(sizes) > 1
    for before, after in zip(alone, together, strict=True):
        assert len(before) == len(after)
        for one, other in zip(before, after, strict=True):
            assert np.abs(one - other).max() <= 1  # of 255; another's result differs by far more
    assert np.abs(alone[0][0] - alone[3][0]).max() > 20
    assert pipeline.unet.forward is not shared
    assert np.array_equal(edit(0)[0], alone[0][0])  # alone again, and the same bit for bit


def test_an_edit_alone_in_a_shared_network_is_the_same_bit_for_bit() -> None:
    pipeline = tiny.embedded_pipeline()
    source, exemplar = tiny.picture(48, 40), tiny.picture(20, 24, seed=1)
    alone = pipeline.edit(source, box=(8, 8, 32, 28), exemplar=exemplar, steps=3)
    with SharedNetwork(pipeline.unet).edit():
        shared = pipeline.edit(source, box=(8, 8, 32, 28), exemplar=exemplar, steps=3)
    np.testing.assert_array_equal(np.asarray(alone.images[0]), np.asarray(shared.images[0]))


def test_an_error_of_the_network_reaches_all_who_shared_the_call() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: Any, t: Any, encoder_hidden_states: Any) -> Any:
            raise torch.OutOfMemoryError("too much")

    network = Broken()
    shared, caught = SharedNetwork(network), []
    ready = threading.Barrier(2)

    def run() -> None:
        with shared.edit():
            ready.wait()
            try:
                network(torch.zeros(1, 2, 3, 3), torch.tensor(1), encoder_hidden_states=torch.zeros(1, 1, 4))
            except torch.OutOfMemoryError as error:
                caught.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert caught == ["too much"] * 2


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(lambda pictures: 0.02, 4), (lambda pictures: 0.01 * pictures, 1)],
    ids=["a cost for each call", "a cost for each picture"],
)
def test_a_batch_is_used_only_where_it_is_faster(seconds: Callable[[int], float], expected: int) -> None:
    class Timed:
        config = SimpleNamespace(in_channels=3, sample_size=4)

        def __call__(self, x: Any, t: Any, encoder_hidden_states: Any) -> Any:
            assert len(x) == len(t) == len(encoder_hidden_states)
            time.sleep(seconds(len(x)))
            return SimpleNamespace(sample=x)

    assert worthwhile(Timed(), 4, torch.zeros(1, 1, 2)) == expected
    assert worthwhile(Timed(), 1, torch.zeros(1, 1, 2)) == 1


def test_a_server_with_batches_shares_calls_and_mixes_nothing(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "worthwhile", lambda network, size, condition: size)  # however busy the machine is

    def results(batch: int) -> tuple[list[Any], Jobs]:
        store = Store(tmp_path / str(batch), 3600)
        jobs = Jobs(Shelf(str(models["embedded"])), store, [torch.device("cpu")], capacity=16, batch=batch)
        jobs.start()
        client = TestClient(create_app(jobs, Options()), base_url="http://127.0.0.1")
        bodies = [ask.parts(source=ask.png(seed=seed), seeds=[seed], steps=6 + seed % 3) for seed in range(8)]
        names = [client.post("/api/edits", files=body).json()["id"] for body in bodies]
        pictures = []
        for name in names:
            content = client.get(ask.wait(client, name)["results"][0]["url"]).content
            pictures.append(np.asarray(Image.open(io.BytesIO(content))).astype(int))
        jobs.close()
        return pictures, jobs

    alone, _ = results(1)
    together, jobs = results(4)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(one - other).max() <= 1
    lines = [line.split() for line in jobs.metrics.text().decode().splitlines() if line.startswith("pbe_batch_size_")]
    counted = {name: float(value) for name, value in lines}
    assert counted["pbe_batch_size_sum"] > counted["pbe_batch_size_count"] > 0  # edits, and calls they made together
