"""What a crash, a full disk, a folder that cannot be written, a jumping clock or a second process leaves behind.

`make chaos` runs these and the kills of training, batches, libraries and the server in their own files.
"""

import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from paint_by_example import conversion, load_pipeline
from paint_by_example.errors import DataError, ModelError, PictureError, UserError
from paint_by_example.images import save_image
from paint_by_example.library import Library, add_pictures
from paint_by_example.server.store import Store, new_id
from paint_by_example.state import Log, hold, load_checkpoint, save_checkpoint, start_run
from tests import tiny

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.test_chaos"])
KILLS = 4


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file grows beyond a size, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def run_convert(model: Path, out: Path, overwrite: bool) -> None:
    conversion.convert(model, out, overwrite=overwrite)


def test_a_conversion_killed_at_random_moments_leaves_the_old_model_or_the_new(
    models: dict[str, Path], tmp_path: Path
) -> None:
    moments, out = random.Random(0), tmp_path / "model"
    run_convert(models["clip"], out, False)
    whole = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for _ in range(KILLS):
        process = PROCESSES.Process(target=run_convert, args=(models["clip"], out, True))
        process.start()
        while process.is_alive() and not list(tmp_path.glob(".model.part")):  # until it writes
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        process.join()
        found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert found == whole
    run_convert(models["clip"], out, True)
    load_pipeline(out, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", ["model", "model.safetensors"])
def test_a_conversion_onto_a_full_disk_leaves_nothing(name: str, tmp_path: Path) -> None:
    tiny.sd_pipeline().save_pretrained(tmp_path / "sd")
    with full_disk(100_000), pytest.raises(ModelError, match=f"cannot write .*{name}: File too large"):
        conversion.convert(tmp_path / "sd", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["sd"]


def state_of(step: int) -> dict[str, Any]:
    return {"step": step, "parameters": {}, "average": {}, "average_updates": step, "optimizer": {}}


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_of(1), keep=2)
    with full_disk(100), pytest.raises(DataError, match="make room and run the same command again"):
        save_checkpoint(tmp_path, state_of(2), keep=2)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    save_checkpoint(tmp_path, state_of(3), keep=2)
    start_run(tmp_path, {}, 3)
    assert not list(tmp_path.rglob("*.partial"))


def test_a_library_that_finds_no_room_goes_on_later(tmp_path: Path) -> None:
    painter = tiny.embedded_pipeline()
    (tmp_path / "pictures").mkdir()
    for seed in range(6):
        tiny.picture(40, 30, seed=seed).save(tmp_path / "pictures" / f"{seed}.png")
    add_pictures(tmp_path / "library", painter, [tmp_path / "pictures" / "0.png"])
    size = (tmp_path / "library" / "features.f32").stat().st_size
    with full_disk(size + 4), pytest.raises(DataError, match="cannot use the library"):
        add_pictures(tmp_path / "library", painter, [tmp_path / "pictures"])
    with Library(tmp_path / "library") as library:
        assert library.count == 1
    assert add_pictures(tmp_path / "library", painter, [tmp_path / "pictures"]).added == 5


def test_a_result_that_finds_no_room_leaves_the_old_one(tmp_path: Path) -> None:
    save_image(tiny.picture(200, 200), tmp_path / "out.png")
    before = (tmp_path / "out.png").read_bytes()
    with full_disk(1000), pytest.raises(PictureError, match=r"cannot write .*out.png"):
        save_image(tiny.picture(200, 200, seed=1), tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    assert (tmp_path / "out.png").read_bytes() == before


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder that nobody writes to; who is root, for whom permissions mean nothing, has the kernel's own."""
    if os.geteuid() == 0:
        return Path("/proc/self")
    (tmp_path / "unwritable").mkdir(mode=0o500)
    return tmp_path / "unwritable"


@pytest.mark.parametrize("kind", ["picture", "model", "library", "run"])
def test_a_folder_that_cannot_be_written_is_named(kind: str, unwritable: Path, models: dict[str, Path]) -> None:
    painter = tiny.embedded_pipeline()
    actions: dict[str, Callable[[], object]] = {
        "picture": lambda: save_image(tiny.picture(4, 4), unwritable / "out.png"),
        "model": lambda: conversion.convert(models["clip"], unwritable / "model"),
        "library": lambda: add_pictures(unwritable / "library", painter, [Path(__file__)]),
        "run": lambda: start_run(unwritable / "run", {}, 0),
    }
    with pytest.raises(UserError, match=f"cannot (write|make|use).*{unwritable}"):
        actions[kind]()


def holds(run: Path, ready: Any, ends: Any) -> None:
    with Log(run):
        ready.set()
        ends.wait()


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    start_run(tmp_path, {}, 0)
    ready, ends = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=holds, args=(tmp_path, ready, ends))
    process.start()
    assert ready.wait(300)
    with pytest.raises(DataError, match="another process trains in"):
        start_run(tmp_path, {}, 0)
    process.kill()  # with it goes its hold
    process.join()
    start_run(tmp_path, {}, 0)
    hold(tmp_path).close()


def test_a_clock_that_jumps_back_removes_no_edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, 3600)
    place = store.place(new_id())
    place.mkdir(parents=True)
    (place / "edit.json").write_text("{}")
    now = time.time()
    for jump, removed in ((-10 * 365 * 86400, 0), (0, 0), (7200, 1)):
        monkeypatch.setattr(time, "time", lambda jump=jump: now + jump)
        assert store.sweep(set()) == removed
    assert not place.exists()
    store.close()
