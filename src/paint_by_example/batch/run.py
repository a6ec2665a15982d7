"""A table from its rows to its manifest, in the process that holds the output folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError, UserError
from ..pipeline import PaintByExamplePipeline
from ..pose import find_models
from ..state import read_lines, write_lines, write_whole
from .editing import BatchEditor, Task, load_model, manifest_line
from .on_ray import on_ray
from .querying import answer
from .settings import BatchConfig, Outcome
from .spread import in_processes
from .table import Row, read_table

GROUP = 8  # rows of one source that are handed to a process at once, at most, where each is made by itself


def run_batch(config: BatchConfig, progress: Callable[[int, int], object] = lambda done, total: None) -> Outcome:
    """Make all edits of a table; see `BatchConfig`.

    Args:
        config: what to do.
        progress: told how many rows are done, and of how many, after every few rows.

    Returns:
        What became of the rows.

    Raises:
        DataError: the table cannot be read, another process writes to the output, or the disk is full.
        ModelError: the model, or the network beside it, cannot be loaded.
        UserError: an option is out of range, no row makes use of it, or the networks for poses are not there.
    """
    if config.processes < 1 or config.batch < 1:
        raise UserError("processes and batch must be at least 1")
    rows = read_table(config.table)
    check_structures(config, rows)
    with exclusive(config.output):
        pipeline = load_model(config, "cpu" if config.engine == "ray" else next(iter(config.device), None))
        beside = None if pipeline.controlnet is None else pipeline.controlnet.fingerprint()
        tasks, failed = identify(answer(rows, pipeline), pipeline.fingerprint(), beside)
        return Batch(config, pipeline, tasks, failed, progress).run()


def check_structures(config: BatchConfig, rows: Sequence[Row | tuple[int, str]]) -> None:
    """Find out before the work that an option about structures is of no use.

    Raises:
        UserError: no row asks for what it is about, or the networks for poses are not there.
    """
    kinds = {row.settings.get("structure") for row in rows if isinstance(row, Row)}
    if config.controlnet is not None and kinds <= {None}:
        raise UserError("--controlnet goes with a column structure, and no row has one")
    if config.pose_models is not None:
        if "pose" not in kinds:
            raise UserError("--pose-models goes with the structure pose, and no row has it")
        find_models(config.pose_models)


@contextlib.contextmanager
def exclusive(output: Path) -> Iterator[None]:
    """Hold an output folder, which no other process may write to meanwhile; the system lets go of it with the process.

    Raises:
        DataError: another one holds it, or it cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / ".lock").open("w")
    except OSError as error:
        raise DataError(f"cannot write to {output}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another pbe batch is writing to {output}; wait for it, or name another folder") from None
        work = output / ".work"
        for left in [*work.glob("*"), *work.glob(".*"), *output.glob("*.partial")]:
            left.unlink(missing_ok=True)
        yield
        with contextlib.suppress(OSError):
            work.rmdir()


def identify(
    rows: Sequence[Row | tuple[int, str]], fingerprint: str, beside: str | None = None
) -> tuple[list[Task], list[dict[str, Any]]]:
    """Rows as tasks, those with one source together, and the lines of those that cannot be.

    Args:
        rows: of the table; whose exemplars are known.
        fingerprint: of the model.
        beside: of the ControlNet or T2I-Adapter, which rows with a structure depend on too.
    """
    hashes: dict[str, str] = {}

    def content(path: str) -> str:
        if path not in hashes:
            try:
                with open(path, "rb") as file:
                    hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
            except (OSError, ValueError) as error:  # ValueError: of a path with a zero byte
                raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        return hashes[path]

    tasks, failed = [], []
    for row in rows:
        if not isinstance(row, Row):
            failed.append({"row": row[0], "id": None, "reason": row[1]})
            continue
        try:
            files = [(row.source,), row.masks, row.exemplars, *([] if row.sketch is None else [(row.sketch,)])]
            pictures = [[content(path) for path in paths] for paths in files]
        except UserError as error:
            failed.append({"row": row.number, "id": None, "reason": str(error)})
            continue
        made_of = [fingerprint, pictures, row.boxes, {"seed": 0} | row.settings]
        if beside is not None and "structure" in row.settings:
            made_of.append(beside)
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]
        tasks.append(Task(name, row, f"results/{name[:2]}/{name}.png"))
    return sorted(tasks, key=lambda task: (hashes[task.row.source], task.row.number)), failed


class Batch:
    """A table on its way, in the process that holds the output folder."""

    def __init__(
        self,
        config: BatchConfig,
        pipeline: PaintByExamplePipeline,
        tasks: list[Task],
        failed: list[dict[str, Any]],
        progress: Callable[[int, int], object],
    ) -> None:
        self.config, self.pipeline, self.tasks, self.progress = config, pipeline, tasks, progress
        self.seconds = {line.get("id"): line.get("seconds") for line in read_lines(config.output / "manifest.jsonl")}
        self.done = {task.id for task in tasks if (config.output / task.result).exists()}
        self.failed = failed
        self.outcome = Outcome(kept=sum(task.id in self.done for task in tasks))
        self.total = len(tasks) + len(failed)

    def run(self) -> Outcome:
        """Make what is missing, then write manifest and failures in the order of the table."""
        missing = {task.id: task for task in reversed(self.tasks) if task.id not in self.done}
        groups = grouped(list(reversed(missing.values())), self.config.batch)
        engine = partial(on_ray, self.config) if self.config.engine == "ray" else self.local
        try:
            with (self.config.output / "manifest.jsonl").open("ab", buffering=0) as self.manifest:
                for lines in engine(groups) if groups else ():
                    self.note(lines)
            self.finish()
        except OSError as error:
            raise DataError(
                f"cannot write to {self.config.output}: {error.strerror}; make room and run the same command again"
            ) from error
        return self.outcome

    def note(self, lines: Sequence[dict[str, Any]]) -> None:
        """Keep what became of some rows, on the disk for those that succeeded."""
        made = [line for line in lines if "reason" not in line]
        self.failed += [line for line in lines if "reason" in line]
        self.manifest.write(b"".join(json.dumps(line).encode() + b"\n" for line in made))
        for line in made:
            self.done.add(line["id"])
            if line["seconds"] is not None or line["id"] not in self.seconds:
                self.seconds[line["id"]] = line["seconds"]
        self.outcome.made += len(made)
        self.progress(self.outcome.kept + self.outcome.made + len(self.failed), self.total)

    def finish(self) -> None:
        """Write the manifest and failed.jsonl as they stay; rows that are twice in the table share a result."""
        reasons = {line["id"]: line["reason"] for line in self.failed if line["id"] is not None}
        by_row = sorted(self.tasks, key=lambda task: task.row.number)
        good = [manifest_line(task, self.seconds.get(task.id)) for task in by_row if task.id in self.done]
        bad = [line for line in self.failed if line["id"] is None]
        bad += [
            {"row": task.row.number, "id": task.id, "reason": reasons[task.id]} for task in by_row if task.id in reasons
        ]
        self.outcome.failed = len(bad)
        for name, lines in (("manifest", good), ("failed", sorted(bad, key=lambda line: int(line["row"])))):
            path = self.config.output / f"{name}.jsonl"
            if lines or name == "manifest":
                write_whole(path, partial(write_lines, [json.dumps(line).encode() + b"\n" for line in lines]))
            else:
                path.unlink(missing_ok=True)

    def local(self, groups: list[list[Task]]) -> Iterator[list[dict[str, Any]]]:
        """This process alone, or one for each device and more."""
        devices = self.config.device or (str(self.pipeline.device),)
        if len(devices) * self.config.processes == 1:
            editor = BatchEditor.of(self.config, self.pipeline)
            for group in groups:
                if self.config.batch > 1:
                    yield editor.run(group)
                else:
                    for task in group:
                        yield editor.run([task])
        else:
            yield from in_processes(self.config, devices * self.config.processes, groups)


def grouped(tasks: Sequence[Task], batch: int) -> list[list[Task]]:
    """Neighbours of one source together, at most `GROUP`; with a batch neighbours of any source, as many as it holds.

    All rows paint squares of the model's one size, so they can share calls of the U-Net whatever their sources.
    """
    if batch > 1:
        return [list(tasks[start : start + batch]) for start in range(0, len(tasks), batch)]
    groups: list[list[Task]] = []
    for task in tasks:
        if groups and len(groups[-1]) < GROUP and groups[-1][0].row.source == task.row.source:
            groups[-1].append(task)
        else:
            groups.append([task])
    return groups
