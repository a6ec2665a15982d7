"""Branches that keep users' files and edits from being lost, where nothing else goes through them."""

import contextlib
import errno
import json
import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from paint_by_example.batch.editing import BatchEditor, Task
from paint_by_example.batch.table import Row
from paint_by_example.errors import DataError, UserError
from paint_by_example.library import Encoder, Library, add_pictures
from paint_by_example.library.entry import NewPicture
from paint_by_example.server import jobs as queue
from paint_by_example.server.app import Options, create_app
from paint_by_example.server.jobs import QueueFull
from paint_by_example.server.messages import Edit
from paint_by_example.server.store import Store, new_id
from paint_by_example.state import NEEDED, load_checkpoint, save_checkpoint, start_run
from tests import server_client as ask
from tests import tiny
from tests.test_server_jobs import Bench, started

ENCODER = Encoder("0" * 32, 4, "tiny", None)


def put(library: Library, count: int, size: int = 4) -> None:
    """Append pictures without committing them."""
    first = library.count
    new = [NewPicture(f"{first + n:032x}", 4, 4, 1.0, (0, 0, 0), b"") for n in range(count)]
    library.append(new, [np.full(size, n, np.float32) for n in range(count)])


def filled(folder: Path, count: int = 2) -> Library:
    library = Library(folder, ENCODER)
    with library.writing():
        put(library, count)
        library.commit()
    return library


# --- the library ------------------------------------------------------------------------------------------------------


def test_what_an_error_left_uncommitted_is_not_kept_by_the_next_write(tmp_path: Path) -> None:
    with filled(tmp_path) as library:
        with contextlib.suppress(KeyboardInterrupt), library.writing():
            put(library, 3)
            raise KeyboardInterrupt
        with library.writing():
            library.commit()
        assert library.count == 2
        assert [entry.id for entry in library.entries()] == [0, 1]


def test_a_library_that_another_process_made_meanwhile_is_kept(tmp_path: Path) -> None:
    library = filled(tmp_path)
    library.close()
    library._make(ENCODER)  # as a process does that found none a moment ago
    with Library(tmp_path) as library:
        assert library.count == 2


def test_a_library_of_another_version_is_left_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path).close()
    rows = sqlite3.connect(tmp_path / "library.db")
    rows.execute("update library set value = 2 where key = 'version'")
    rows.commit()
    rows.close()
    with pytest.raises(DataError, match="of another version"):
        Library(tmp_path, ENCODER)


def test_features_of_another_size_reach_no_matrix(tmp_path: Path) -> None:
    with filled(tmp_path) as library:
        before = (tmp_path / "features.f32").read_bytes()
        with pytest.raises(DataError, match="features of 3 numbers"), library.writing():
            put(library, 1, size=3)
        assert (tmp_path / "features.f32").read_bytes() == before


def test_words_that_are_cut_short_are_noticed(tmp_path: Path) -> None:
    with filled(tmp_path) as library:
        library.use_text(Encoder("1" * 32, 3, "words", None))
        library.put_texts({0: np.ones(3, np.float32)})
        assert library.texts().tolist() == [[1, 1, 1], [0, 0, 0]]
        os.truncate(tmp_path / "texts.f32", 20)
        with pytest.raises(DataError, match=r"texts.f32 is cut short"):
            library.texts()


def test_a_library_where_none_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(DataError, match="cannot make the library"):
        Library(tmp_path / "file" / "library", ENCODER)


def test_adding_a_folder_forgets_nothing_of_its_neighbours(tmp_path: Path) -> None:
    painter = tiny.embedded_pipeline()
    for seed, name in enumerate(("pictures2", "pictures")):  # the one's name begins as the other's
        (tmp_path / name).mkdir()
        tiny.picture(16, 12, seed=seed).save(tmp_path / name / "a.png")
        assert add_pictures(tmp_path / "library", painter, [tmp_path / name]).missing == 0
    with Library(tmp_path / "library") as library:
        assert [Path(*entry.paths).parent.name for entry in library.entries()] == ["pictures2", "pictures"]


# --- a run ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_lacks_something_gives_way_to_the_one_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {key: torch.zeros(1) for key in NEEDED} | {"step": 1}
    save_checkpoint(tmp_path, whole, keep=3)
    save_checkpoint(tmp_path, {key: value for key, value in whole.items() if key != "optimizer"} | {"step": 2}, keep=3)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1]["step"] == 1
    assert "it lacks optimizer" in capsys.readouterr().err


def test_what_a_kill_left_half_written_goes_with_the_next_start_and_nothing_else(tmp_path: Path) -> None:
    for name in ("config.json.partial", "model/a.safetensors.partial", "model/a.safetensors", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    start_run(tmp_path, {}, 0)
    assert not list(tmp_path.rglob("*.partial"))
    assert (tmp_path / "model" / "a.safetensors").exists()
    assert (tmp_path / "notes.txt").exists()


# --- a batch ----------------------------------------------------------------------------------------------------------


def test_a_result_that_came_meanwhile_is_not_made_again(tmp_path: Path) -> None:
    row = Row(1, "source.png", (), ((0, 0, 4, 4),), ("exemplar.png",), {})
    task = Task("0" * 32, row, "results/00/result.png")
    path = tmp_path / task.result
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of another process")
    editor = cast(BatchEditor, SimpleNamespace(output=tmp_path))  # without a model, which nobody may ask
    assert BatchEditor.one(editor, task)["seconds"] is None
    assert path.read_bytes() == b"of another process"


# --- the server -------------------------------------------------------------------------------------------------------


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    with started(tmp_path / "state") as bench:
        yield bench


def test_an_edit_whose_end_finds_no_room_has_failed_and_the_next_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = bench.send()
    bench.until(name, "running")
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "write", full)
        bench.go()
        ended = bench.until(name, "failed")  # and not queued, as is on the disk
        assert ended.error == "the server's disk is full"
        assert ended.results == []
    after = bench.send()
    bench.go()
    bench.until(after, "done")
    assert bench.jobs.remove(name)
    assert bench.jobs.view(name) is None


def test_the_last_place_is_given_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.until(bench.send(), "running")
    names = [bench.send() for _ in range(bench.jobs.capacity)]
    monkeypatch.setattr(bench.jobs, "retry_after", lambda: None)  # as two find who ask at the same time
    with pytest.raises(QueueFull):
        bench.send()
    assert [job.id for job in bench.jobs.waiting] == names


def test_the_sweeper_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = threading.Semaphore(0)

    def broken(active: set[str]) -> Any:
        swept.release()
        return full()

    monkeypatch.setattr(queue, "SWEEP_SECONDS", 0.01)
    bench = Bench(tmp_path)
    monkeypatch.setattr(bench.store, "sweep", broken)
    bench.jobs.start()
    assert all(swept.acquire(timeout=10) for _ in range(3))
    bench.jobs.close()


def stored(store: Store, state: str, name: str | None = None) -> str:
    """An edit on the disk, with an upload and a picture."""
    name = name or new_id()
    (store.place(name) / "inputs").mkdir(parents=True)
    (store.place(name) / "inputs" / "source").write_bytes(b"x")
    Image.new("RGB", (2, 2)).save(store.place(name) / "0.png")
    store.write(Edit(id=name, state=cast(Any, state), model="one", name="red", created=time.time()))
    return name


def test_only_ids_are_looked_up(tmp_path: Path) -> None:
    store = Store(tmp_path, 60)
    name = stored(store, "done")
    assert store.read(name) is not None
    outside = tmp_path / "edit.json"
    outside.write_bytes((store.place(name) / "edit.json").read_bytes())
    assert store.read("..") is None
    assert store.read(f"{name}/../..") is None
    store.close()


def test_edits_that_run_or_are_being_sent_are_not_swept(tmp_path: Path) -> None:
    store = Store(tmp_path, 0.01)
    running, ended = stored(store, "running"), stored(store, "done")
    sent = new_id()
    (store.place(sent) / "inputs").mkdir(parents=True)  # has no edit.json yet
    time.sleep(0.05)
    assert store.sweep({running}) == 1
    assert sorted(os.listdir(store.folder)) == sorted((running, sent))
    assert not store.place(ended).exists()
    store.close()


def test_what_was_made_of_an_unfinished_edit_is_not_shown_as_a_result(tmp_path: Path) -> None:
    store = Store(tmp_path, 60)
    running, done = stored(store, "running"), stored(store, "done")
    assert [edit.id for edit in store.recover()] == [running]
    assert os.listdir(store.place(running)) == ["edit.json"]
    assert json.loads((store.place(running) / "edit.json").read_text())["state"] == "interrupted"
    assert (store.place(done) / "0.png").exists()
    store.close()


def test_a_folder_that_cannot_hold_edits_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(UserError, match="cannot keep edits in .*; give --state-dir"):
        Store(tmp_path / "file", 60)


def test_an_upload_that_finds_no_room_is_one_line_and_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TestClient(create_app(bench.jobs, Options(hosts=("testserver",))))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfileobj", full)
        answer = client.post("/api/edits", files=ask.parts())
    assert answer.status_code == 503
    assert answer.json() == {"error": "the server cannot keep what you sent: No space left on device"}
    assert os.listdir(bench.store.folder) == []
    with monkeypatch.context() as patched:
        patched.setattr(bench.store, "write", full)
        assert client.post("/api/edits", files=ask.parts()).status_code == 503
    assert os.listdir(bench.store.folder) == []
    assert bench.jobs.numbers() == (0, 0)
