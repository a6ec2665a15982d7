"""What is on disk of a run: whole at every moment, and the newest whole checkpoint is found."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from paint_by_example.errors import DataError, UserError
from paint_by_example.state import (
    LOCK,
    Log,
    load_checkpoint,
    read_log,
    replace_folder,
    save_checkpoint,
    start_run,
    write_whole,
)


class KilledError(BaseException):
    """As good as kill -9: nothing that the code does afterwards is run but what Python itself unwinds."""


def kill_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let the n-th call that touches the disk's names or waits for it fail, and count them."""
    count = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                raise KilledError
            return function(*arguments, **options)

        return run

    monkeypatch.setattr(os, "fsync", counted(os.fsync))
    for name in ("replace", "rename", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    return lambda: count


def state_of(step: int) -> dict[str, Any]:
    weights = {"w": torch.full((100,), float(step))}
    return {"step": step, "parameters": weights, "average": weights, "average_updates": step, "optimizer": {}}


def step_in(run: Path) -> int:
    loaded = load_checkpoint(run)
    assert loaded is not None
    assert (loaded[1]["parameters"]["w"] == loaded[1]["step"]).all()
    return int(loaded[1]["step"])


@pytest.mark.parametrize("call", range(1, 6))
def test_a_checkpoint_is_whole_wherever_its_writing_is_killed(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, state_of(step), keep=2)
    with monkeypatch.context() as patch:
        kill_at(call, patch)
        if call <= 4:  # two fsyncs, a rename, the removal of the oldest
            with pytest.raises(KilledError):
                save_checkpoint(tmp_path, state_of(3), keep=2)
        else:
            save_checkpoint(tmp_path, state_of(3), keep=2)
    assert step_in(tmp_path) == (2 if call <= 2 else 3)
    save_checkpoint(tmp_path, state_of(4), keep=2)
    assert [file.name for file in sorted((tmp_path / "checkpoints").glob("*.pt"))][-1] == "step-0000004.pt"
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 2


@pytest.mark.parametrize("call", range(1, 9))
def test_a_folder_is_old_or_new_wherever_its_writing_is_killed(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(text: str) -> Callable[[Path], None]:
        def into(folder: Path) -> None:
            (folder / "part").mkdir()
            (folder / "part" / "a").write_text(text)
            (folder / "b").write_text(text)

        return into

    def content(folder: Path) -> list[str]:
        return [(folder / "part" / "a").read_text(), (folder / "b").read_text()]

    replace_folder(tmp_path / "model", write("old"))
    with monkeypatch.context() as patch:
        calls = kill_at(call, patch)
        if call <= 7:  # fsync of a, b, part, the folder, rename, rename, fsync
            with pytest.raises(KilledError):
                replace_folder(tmp_path / "model", write("new"))
        else:
            replace_folder(tmp_path / "model", write("new"))
            assert calls() == 7
    found = tmp_path / "model" if (tmp_path / "model").exists() else tmp_path / "model.old"
    assert content(found) == (["old"] * 2 if call <= 6 else ["new"] * 2)
    replace_folder(tmp_path / "model", write("again"))
    assert content(tmp_path / "model") == ["again"] * 2
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    write_whole(tmp_path / "a", lambda file: file.write(b"content"))
    assert seen == [("a.partial", False), (tmp_path.name, True)]
    assert (tmp_path / "a").read_bytes() == b"content"


def test_every_flipped_bit_of_a_tensor_is_seen(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, state_of(1), keep=2)
    save_checkpoint(tmp_path, state_of(2), keep=2)
    newest = tmp_path / "checkpoints" / "step-0000002.pt"
    whole = newest.read_bytes()
    pattern = torch.full((100,), 2.0).numpy().tobytes()
    place = whole.index(pattern)
    for byte in range(place, place + len(pattern), 37):
        newest.write_bytes(whole[:byte] + bytes([whole[byte] ^ 1]) + whole[byte + 1 :])
        assert step_in(tmp_path) == 1
    newest.write_bytes(whole)
    assert step_in(tmp_path) == 2


def test_no_whole_checkpoint_is_an_error_and_none_at_all_is_a_new_run(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, state_of(1), keep=2)
    (tmp_path / "checkpoints" / "step-0000001.pt").write_bytes(b"")
    with pytest.raises(DataError, match=r"step-0000001.pt is damaged and cannot be read, nor is another whole"):
        load_checkpoint(tmp_path)


class Opens:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("what", ["runs code", "lacks a part"])
def test_a_checkpoint_that_is_none_is_passed_over(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path, state_of(1), keep=2)
    state, touched = state_of(2), tmp_path / "touched"
    if what == "runs code":
        state["optimizer"] = Opens(touched)
    else:
        del state["average"], state["average_updates"]
    save_checkpoint(tmp_path, state, keep=2)
    assert step_in(tmp_path) == 1
    assert not touched.exists()
    said = capsys.readouterr().err
    assert f"step-0000002.pt is damaged: {'' if what == 'runs code' else 'it lacks average, average_updates'}" in said
    assert "the one before it is looked for" in said


def test_a_run_of_before_is_taken_up_where_there_is_nothing_newer(tmp_path: Path) -> None:
    torch.save(state_of(7), tmp_path / "checkpoint.pt")
    assert step_in(tmp_path) == 7
    save_checkpoint(tmp_path, state_of(3), keep=1)
    assert step_in(tmp_path) == 3


def test_a_checkpoint_that_cannot_be_written_is_said_and_those_before_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, state_of(1), keep=1)
    for error in (OSError(28, "No space left on device"), RuntimeError("No space left on device\nframe #0")):

        def full(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(DataError) as raised:
            save_checkpoint(tmp_path, state_of(2), keep=1)
        path = tmp_path / "checkpoints" / "step-0000002.pt"
        reason = "No space left on device; make room and run the same command again"
        assert str(raised.value) == f"cannot write {path}: {reason}"
    assert step_in(tmp_path) == 1


def test_a_run_s_folder_is_made_and_what_a_kill_left_half_written_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "first"
    start_run(run, {"data": Path("data")}, 0)
    assert (run / "config.json").read_text() == '{\n  "data": "data"\n}\n'
    (run / "checkpoints").mkdir()
    for left in (run / "config.json.partial", run / "checkpoints" / "step-0000004.pt.partial"):
        left.touch()
    (run / "folder.partial").mkdir()
    (run / "log.jsonl").write_text('{"loss": 1}\n{"step": 0}\n{"step": 1}\n')
    start_run(run, {}, 0)
    assert [path.name for path in run.rglob("*.partial")] == ["folder.partial"]
    assert read_log(run, "log") == [{"step": 0}]


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "wb")
try:
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    print("held by another", flush=True)
else:
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time_writes_to_a_run(tmp_path: Path) -> None:
    def another() -> subprocess.Popen[str]:
        command = [sys.executable, "-S", "-c", HOLD, str(tmp_path / LOCK)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with another() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for begin in (lambda: start_run(tmp_path, {}, 0), lambda: Log(tmp_path)):
            with pytest.raises(DataError, match="another process trains in"):
                begin()
        process.communicate()
    start_run(tmp_path, {}, 0)
    with Log(tmp_path), another() as process:
        assert process.communicate()[0] == "held by another\n"
    assert not (tmp_path / LOCK).exists()


def test_a_line_is_in_the_log_at_once(tmp_path: Path) -> None:
    start_run(tmp_path, {}, 0)
    with Log(tmp_path) as log:
        log.write("held_out", {"step": 1, "loss": 0.5})
        assert read_log(tmp_path, "held_out") == [{"step": 1, "loss": 0.5}]
    with Log(tmp_path) as log:  # goes on
        log.write("held_out", {"step": 2, "loss": 0.25})
    assert [line["step"] for line in read_log(tmp_path, "held_out")] == [1, 2]
    with Log(None) as log:
        log.write("log", {"step": 1})


def test_what_is_logged_is_shown_in_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            shown.append(("open", folder, purge_step))

        def add_scalar(self, *given: Any) -> None:
            shown.append(given)

        def add_image(self, *given: Any, dataformats: str) -> None:
            shown.append((*given, dataformats))

        def flush(self) -> None:
            pass

        def close(self) -> None:
            shown.append(("close",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    start_run(tmp_path, {}, 0)
    with Log(tmp_path, tensorboard=6) as log:
        log.write("held_out", {"step": 7, "loss": 0.5})
        log.picture(7, "pixels")  # type: ignore[arg-type]
    assert shown == [
        ("open", str(tmp_path / "tensorboard"), 7),
        ("held_out/loss", 0.5, 7),
        ("samples", "pixels", 7, "HWC"),
        ("close",),
    ]


@pytest.mark.parametrize("line", ['{"step": }', '{"step": 1}, {"step": 2}'])
def test_a_log_that_is_damaged_is_said(line: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(DataError, match=r"log.jsonl is damaged .*; put it away, another is begun"):
        start_run(tmp_path, {}, 1)


def test_the_log_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start_run(run, {"seed": 1}, 0)
    with Log(run) as log:
        for step in (1, 2, 3):
            log.write("log", {"step": step})
        log.files["log"].write(b'{"step": 2')  # cut short
    assert read_log(run, "log") == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert read_log(run, "held_out") == []
    start_run(run, {"seed": 2}, 2)
    assert (run / "log.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert json.loads((run / "config.json").read_text()) == {"seed": 2}
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write the run's folder"):
        start_run(tmp_path / "file", {}, 0)
