"""The state of a run on disk: its checkpoints and its log, whole whenever the process is killed.

A file is written beside its place, brought to the disk and renamed, so a name always stands for something whole, and a
folder likewise. Several checkpoints are kept, and where the newest is damaged nevertheless (a disk that lies or fills
up), the one before it is taken:

    run/checkpoints/step-0000500.pt     parameters, average, optimiser, and the losses not yet in the log
    run/log.jsonl                       a line every so many steps
    run/held_out.jsonl                  likewise, of held-out examples
    run/tensorboard/                    the same once more, where it was asked for
    run/checkpoint.pt                   of runs before there were several; read where there is nothing newer
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from tqdm import tqdm

from .errors import DataError, UserError

CHECKPOINTS = "checkpoints"
LOGS = ("log.jsonl", "held_out.jsonl")
OLD_CHECKPOINT = "checkpoint.pt"
LOCK = ".lock"
NEEDED = ("step", "parameters", "average", "average_updates", "optimizer")


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, wait until it is on the disk, and rename it.

    Args:
        path: of the file.
        write: puts its bytes into what it is given.
    """
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def replace_folder(path: Path, write: Callable[[Path], object]) -> None:
    """Write a folder beside its place, wait until it is on the disk, and put it in the place of what was there.

    A folder cannot be renamed onto another, so for a moment there is none, but its old content under ``NAME.old``. What
    a killed process left of either is removed.

    Args:
        path: of the folder.
        write: puts its content into the new folder that it is given.
    """
    partial, old = (path.with_name(f"{path.name}.{suffix}") for suffix in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for file in sorted(partial.rglob("*")):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        else:
            sync_folder(file)
    sync_folder(partial)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(run: Path, state: dict[str, Any], keep: int) -> None:
    """Write a checkpoint, and remove all but the newest.

    Args:
        run: folder of the run.
        state: with the keys `NEEDED`.
        keep: how many stay, at least 1.

    Raises:
        DataError: if it cannot be written; those before it stay.
    """
    folder = run / CHECKPOINTS
    path = folder / f"step-{state['step']:07d}.pt"
    try:
        folder.mkdir(exist_ok=True)
        write_whole(path, lambda file: torch.save(state, file))
    except (OSError, RuntimeError) as error:  # torch's own is a RuntimeError
        reason = f"{getattr(error, 'strerror', None) or error}".partition("\n")[0]
        raise DataError(f"cannot write {path}: {reason}; make room and run the same command again") from error
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        old.unlink()


def load_checkpoint(run: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is whole; a damaged one is named on stderr and passed over.

    Args:
        run: folder of the run.

    Returns:
        Its file and what is in it, on the CPU; None for a new run.

    Raises:
        DataError: if there are checkpoints, but none is whole.
    """
    files = [*sorted((run / CHECKPOINTS).glob("step-*.pt"), reverse=True), run / OLD_CHECKPOINT]
    damaged: list[Path] = []
    for path in filter(Path.exists, files):
        try:
            return path, read_checkpoint(path)
        except DataError as error:
            tqdm.write(f"{error}; the one before it is looked for", file=sys.stderr)
            damaged.append(path)
    if damaged:
        raise DataError(f"{damaged[0]} is damaged and cannot be read, nor is another whole; remove it to begin anew")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, after comparing every byte of it with its checksum.

    Raises:
        DataError: if it is damaged, or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:  # torch itself does not look at the checksums
                raise ValueError(f"the checksum of {member} is wrong")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if missing := [key for key in NEEDED if key not in state]:
            raise ValueError(f"it lacks {', '.join(missing)}")
    except Exception as error:  # of a damaged file torch, pickle and zipfile each raise kinds of their own
        raise DataError(f"{path} is damaged: {error}") from error
    return state


def start_run(run: Path, settings: dict[str, Any], first: int) -> None:
    """Make the run's folder, note its settings, and forget what was logged after the checkpoint it goes on from.

    Args:
        run: folder of the run.
        settings: for ``config.json``.
        first: steps that are done.

    Raises:
        DataError: if another process writes to the folder, or a log in it is damaged.
        UserError: if the folder cannot be written.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        hold(run).close()
        for left in filter(Path.is_file, list(run.rglob("*.partial"))):
            left.unlink()
        text = json.dumps(settings, default=str, indent=2) + "\n"
        write_whole(run / "config.json", lambda file: file.write(text.encode()))
        for log in filter(Path.exists, (run / name for name in LOGS)):
            kept = [line for line in read_lines(log) if isinstance(line.get("step"), int) and line["step"] <= first]
            write_whole(log, partial(write_lines, [json.dumps(line).encode() + b"\n" for line in kept]))
    except OSError as error:
        raise UserError(f"cannot write the run's folder {run}: {error.strerror}") from error


def hold(run: Path) -> IO[bytes]:
    """Hold a run's folder as long as what is given is open; the system lets go of it with the process.

    Processes that are forked, to load data, do not hold it: a run can go on at once after a kill.

    Raises:
        DataError: another process holds it.
    """
    lock = (run / LOCK).open("wb")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise DataError(f"another process trains in {run}; wait for it, or name another folder") from error
    return lock


def write_lines(lines: list[bytes], file: IO[bytes]) -> None:
    """Write lines that end as lines do."""
    file.writelines(lines)


class Log:
    """The logs of a run that goes on: JSON lines, which need no program to be kept or read, and TensorBoard's events.

    Args:
        run: folder of the run; None for a process that writes nothing.
        tensorboard: steps that are done, what TensorBoard knows beyond them is forgotten; None for no TensorBoard.

    Raises:
        UserError: if the package tensorboard is needed and not installed.
    """

    def __init__(self, run: Path | None, tensorboard: int | None = None) -> None:
        self.run = run
        writer: Any = None
        if run is not None and tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter as writer
            except ImportError as error:
                raise UserError(
                    "tensorboard needs the package of that name; install it, or paint-by-example[tensorboard]"
                ) from error
        # Opened when there is something to write, but for the lock.
        self.files: dict[str, IO[bytes]] = {} if run is None else {LOCK: hold(run)}
        self.board: Any = None
        if writer is not None:
            self.board = writer(str(cast(Path, run) / "tensorboard"), purge_step=cast(int, tensorboard) + 1)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self.run is not None:
            (self.run / LOCK).unlink(missing_ok=True)
        for file in self.files.values():
            file.close()
        if self.board is not None:
            self.board.close()

    def write(self, name: str, line: dict[str, Any]) -> None:
        """Append a line to a log, in one write, so that a kill leaves all of it or nothing.

        Args:
            name: log or held_out.
            line: ``step`` and figures.
        """
        if self.run is None:
            return
        if name not in self.files:
            self.files[name] = (self.run / f"{name}.jsonl").open("ab", buffering=0)
        self.files[name].write(json.dumps(line).encode() + b"\n")
        if self.board is not None:
            for key in line.keys() - {"step"}:
                self.board.add_scalar(f"{name}/{key}", line[key], line["step"])
            self.board.flush()

    def picture(self, step: int, picture: np.ndarray) -> None:
        """Show a picture, (H, W, 3) uint8, in TensorBoard."""
        if self.board is not None:
            self.board.add_image("samples", picture, step, dataformats="HWC")
            self.board.flush()


def read_log(run: Path, name: str) -> list[dict[str, Any]]:
    """The lines of a log, without one that is being written; none where it is not there.

    Args:
        run: folder of the run.
        name: log or held_out.
    """
    return read_lines(run / f"{name}.jsonl")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of JSON, one a line, without a last line that was being written; none where there is no file.

    Raises:
        DataError: if another line is none.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    try:
        return [dict(json.loads(line)) for line in lines if line.endswith(b"}\n")]
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); put it away, another is begun") from error
