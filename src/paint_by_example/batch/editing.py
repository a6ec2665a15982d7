"""One process of a batch: a model, and the rows it is given, which share what can be shared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ..batching import SharedNetwork
from ..errors import DataError, UserError
from ..images import load_exemplar, load_image, save_image
from ..pipeline import PaintByExamplePipeline, load_pipeline
from ..state import sync_folder
from ..structure import Structure
from .settings import BatchConfig
from .table import Row

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
REMEMBERED = 64  # pictures, conditions and latents each that a process keeps


@dataclass(frozen=True)
class Task:
    """A row and where its result goes."""

    id: str
    row: Row
    result: str
    """Relative to the output folder."""


class Recent:
    """Keeps the values of the keys that were asked for last."""

    def __init__(self) -> None:
        self.values: OrderedDict[Any, Future[Any]] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        """The value of a key, made where it is not there; other threads that want it meanwhile wait for it."""
        with self.lock:
            new = key not in self.values
            found: Future[T] = self.values.setdefault(key, Future())
            self.values.move_to_end(key)
            while len(self.values) > REMEMBERED:
                self.values.popitem(last=False)
        if new:
            try:
                found.set_result(make())
            except BaseException as error:  # which all that wait are told, and nobody who asks later
                with self.lock:
                    self.values.pop(key, None)
                found.set_exception(error)
        return found.result()


def load_model(config: BatchConfig, device: str | None) -> PaintByExamplePipeline:
    """The model of a batch, with the network beside it that sees structures.

    Raises:
        ModelError: one of them cannot be loaded, or they do not go together.
    """
    pipeline = load_pipeline(config.model, device=device)
    if config.controlnet is not None:
        pipeline.load_controlnet(config.controlnet)
    if pipeline.controlnet is not None:
        pipeline.controlnet.network.to(pipeline.device)  # now, before threads share it
    return pipeline


@dataclass
class BatchEditor:
    """A model, and what rows share: pictures that were read, encodings of exemplars and of masked sources."""

    pipeline: PaintByExamplePipeline
    output: Path
    batch: int = 1
    pose_models: Path | None = None
    pictures: Recent = field(default_factory=Recent)

    def __post_init__(self) -> None:
        pipeline, fingerprint = self.pipeline, self.pipeline.fingerprint()
        exemplars, latents = Recent(), Recent()
        encode_exemplar, encode_picture = pipeline.encode_exemplar, pipeline.encode_picture

        def shared_exemplar(pictures: Sequence[Image]) -> torch.Tensor:
            key = tuple((one.size, hashlib.sha256(one.tobytes()).digest()) for one in pictures)
            return exemplars.get(key, lambda: encode_exemplar(pictures))

        def shared_picture(x: torch.Tensor, generator: Any = None) -> torch.Tensor:
            if generator is not None:
                return encode_picture(x, generator)
            key = (tuple(x.shape), hashlib.sha256(x.float().cpu().numpy().tobytes()).digest())
            return latents.get(key, lambda: encode_picture(x))

        for name, function in {
            "encode_exemplar": shared_exemplar,
            "encode_picture": shared_picture,
            "fingerprint": lambda: fingerprint,
        }.items():
            setattr(pipeline, name, function)
        self.network = SharedNetwork(pipeline.unet, patient=True, threads=torch.get_num_threads())

    @classmethod
    def of(cls, config: BatchConfig, pipeline: PaintByExamplePipeline) -> BatchEditor:
        """Around a model from `load_model`, as the batch says."""
        return cls(pipeline, config.output, config.batch, config.pose_models)

    def run(self, tasks: Sequence[Task]) -> list[dict[str, Any]]:
        """Edit rows; gives of each its line for the manifest, or for failed.jsonl.

        Raises:
            DataError: a result cannot be written; those before it are whole.
        """
        if self.batch == 1 or len(tasks) == 1:
            return [self.one(task) for task in tasks]
        lines: list[dict[str, Any]] = []
        before = torch.get_num_threads()
        try:
            # With a thread of torch each: else every one starts as many as there are cores, which wait for one another.
            with ThreadPoolExecutor(self.batch, initializer=torch.set_num_threads, initargs=(1,)) as threads:
                for start in range(0, len(tasks), self.batch):
                    together = tasks[start : start + self.batch]
                    self.network.begin(len(together))
                    lines += threads.map(self.one_of_several, together)
        finally:
            torch.set_num_threads(before)  # what was set last holds for threads that start later, too
        return lines

    def one_of_several(self, task: Task) -> dict[str, Any]:
        """Edit a row, in a thread, with calls of the U-Net shared."""
        try:
            return self.one(task)
        finally:
            self.network.end()

    def one(self, task: Task) -> dict[str, Any]:
        """Edit a row and write its result, unless it is there."""
        row, path, started = task.row, self.output / task.result, time.perf_counter()
        if path.exists():
            return manifest_line(task, None)
        try:
            source = self.pictures.get(("source", row.source), partial(load_image, row.source))
            exemplars = [self.pictures.get(("exemplar", one), partial(load_exemplar, one)) for one in row.exemplars]
            where: dict[str, Any] = {"mask": list(row.masks)} if row.masks else {"box": list(row.boxes)}
            settings = dict(row.settings)
            if row.sketch is not None:
                settings["structure"] = Structure("sketch", row.sketch)
            elif settings.get("structure") == "pose":
                settings["structure"] = Structure("pose", models=self.pose_models)
            edited = self.pipeline.edit(source, exemplar=exemplars, **where, **settings)
        except UserError as error:
            return {"row": row.number, "id": task.id, "reason": str(error)}
        paths = [[one] for one in row.exemplars] * (1 if len(row.exemplars) > 1 else len(row.where))
        made = edited.records[0].named(source=row.source, where=row.where, exemplars=paths)
        write_result(edited.images[0], path, made.info(path.parent), self.output)
        return manifest_line(task, round(time.perf_counter() - started, 3))


def write_result(picture: Image, path: Path, info: dict[str, str], output: Path) -> None:
    """Write a result beside its place, wait until it is on the disk, and rename it.

    Raises:
        DataError: it cannot be written.
    """
    beside = output / ".work" / f"{os.getpid()}-{threading.get_ident()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.parent.mkdir(exist_ok=True)
        save_image(picture, beside, info)
        with beside.open("rb") as written:
            os.fsync(written.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except (OSError, UserError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot write {path}: {reason}; make room and run the same command again") from error


def manifest_line(task: Task, seconds: float | None) -> dict[str, Any]:
    """What the manifest says of a row."""
    settings = {name: value for name, value in task.row.settings.items() if name != "seed"}
    seed = task.row.settings.get("seed", 0)
    line = {"row": task.row.number, "id": task.id, "result": task.result, "seed": seed}
    return line | {"settings": settings, "seconds": seconds}
