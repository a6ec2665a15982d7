"""Edits that wait and run: a bounded queue, and a worker for each device.

An edit is in memory from when it is accepted until it has ended; what is known of it afterwards is on disk, in `store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..images import save_image
from .messages import Edit, Result, Settings, State
from .metrics import Metrics
from .models import FILL, Shelf
from .painting import Cancelled, Made, Progress, Work, asked_info, save_path
from .previews import Preview, make_preview
from .store import Store
from .worker import Worker

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("paint_by_example.server")

RECENT = 0.8  # weight of what was before in the mean duration of edits
SWEEP_SECONDS = 60.0
STOP_SECONDS = 20.0
MAX_RETRY = 120  # seconds


class QueueFull(Exception):
    """There is no place; try again after so many seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


class Listener:
    """Wakes a coroutine from any thread."""

    def __init__(self) -> None:
        self.loop, self.event = asyncio.get_running_loop(), asyncio.Event()

    def notify(self) -> None:
        """Wake it."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.event.set)


@dataclass(eq=False)
class Job:
    """An edit that waits or runs."""

    id: str
    name: str
    """Of the source's file, without its suffix."""
    model: str
    settings: Settings
    load: Callable[[], Work]
    """Decodes what was uploaded."""
    created: float = field(default_factory=time.time)
    state: State = "queued"
    started: float | None = None
    step: int = 0
    steps: int = 0
    first_step: float | None = None
    """When the first step was done, by the monotonic clock."""
    latest_step: float | None = None
    preview: Preview | None = None
    previewers: int = 0
    """How many look at previews."""
    next_preview: float = 0.0
    cancelled: bool = False
    removed: bool = False
    listeners: set[Listener] = field(default_factory=set)
    last: Edit | None = None
    """How it ended."""

    def notify(self) -> None:
        """Wake all who listen."""
        for listener in list(self.listeners):
            listener.notify()

    def seconds_left(self) -> float | None:
        """Of its steps, as fast as they went so far."""
        if self.first_step is None or self.latest_step is None or self.step < 2:
            return None
        return (self.latest_step - self.first_step) / (self.step - 1) * (self.steps - self.step)


class Jobs:
    """The queue and the workers.

    Args:
        shelf: the models.
        store: the edits on disk.
        devices: one worker each.
        capacity: edits that may wait.
        batch: edits that share a network call, at most; 1 keeps results bit for bit those of `pbe edit`.
        output_dir: where results go to stay; None for the store, for a time.
        metrics: to count in.
        switch: whether clients may choose the model.
    """

    def __init__(
        self,
        shelf: Shelf,
        store: Store,
        devices: list[torch.device],
        *,
        capacity: int,
        batch: int = 1,
        output_dir: Path | None = None,
        metrics: Metrics | None = None,
        switch: bool = True,
    ) -> None:
        self.shelf, self.store, self.capacity, self.batch = shelf, store, capacity, batch
        self.output_dir, self.switch = output_dir, switch
        self.metrics = metrics or Metrics()
        self.current = shelf.first
        self.changed = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.active: dict[str, Job] = {}
        self.unwritten: dict[str, Edit] = {}
        """How edits ended for which the disk had no room."""
        self.mean_seconds: float | None = None
        self.stopping = False
        self.workers = [Worker(self, device) for device in devices]
        self.sweeper = threading.Thread(target=self._sweep, name="sweeper", daemon=True)

    # --- from start to end --------------------------------------------------------------------------------------------

    def start(self) -> list[Edit]:
        """Load the first model on every device, then take up work.

        Returns:
            Edits that the server before this one left unfinished, now marked as interrupted.

        Raises:
            UserError: the model cannot be loaded.
        """
        interrupted = self.store.recover()
        for worker in self.workers:
            worker.use(self.current)
        for worker in self.workers:
            worker.start()
        self.sweeper.start()
        return interrupted

    def stop(self) -> None:
        """Take up nothing more; what waits or runs ends as interrupted."""
        with self.changed:
            self.stopping = True
            waiting, self.waiting = list(self.waiting), deque()
            running = [job for job in self.active.values() if job.state == "running"]
            self.changed.notify_all()
        for job in waiting:
            self._end(job, "interrupted")
        for job in running:
            job.notify()

    def close(self) -> None:
        """Stop, wait for the workers, and let the store go."""
        self.stop()
        for worker in self.workers:
            if worker.is_alive():
                worker.join(STOP_SECONDS)
        self.store.close()

    @property
    def failing(self) -> bool:
        """Whether a worker ended by itself, which none should."""
        return not self.stopping and any(worker.ident is not None and not worker.is_alive() for worker in self.workers)

    def _sweep(self) -> None:
        while not self.stopping:
            try:
                self.store.sweep(set(self.active))
            except OSError:
                logger.exception("old edits could not be removed")
            with self.changed:
                self.changed.wait_for(lambda: self.stopping, SWEEP_SECONDS)

    # --- what clients ask ---------------------------------------------------------------------------------------------

    def retry_after(self) -> int | None:
        """None if there is a place in the queue, or else a guess after how many seconds there is one."""
        with self.changed:
            if len(self.waiting) < self.capacity and not self.stopping:
                return None
            return min(max(math.ceil((self.mean_seconds or 1.0) / self._width()), 1), MAX_RETRY)

    def submit(self, job: Job) -> Edit:
        """Put an edit into the queue.

        Raises:
            QueueFull: there is no place, or the server stops.
        """
        if (wait := self.retry_after()) is not None:
            raise QueueFull(wait)
        self.store.write(self._view(job))
        with self.changed:
            if len(self.waiting) >= self.capacity or self.stopping:  # others came first
                raise QueueFull(1)
            self.waiting.append(job)
            self.active[job.id] = job
            self._count()
            self.changed.notify_all()
            return self._view(job)

    def find(self, name: str) -> Job | None:
        """An edit that waits or runs."""
        with self.changed:
            return self.active.get(name)

    def view(self, name: str) -> Edit | None:
        """How an edit stands; None if there is none."""
        with self.changed:
            job = self.active.get(name)
            if job is not None:
                return self._view(job)
        return self.unwritten.get(name) or self.store.read(name)

    def look(self, job: Job) -> Edit:
        """How an edit stands that may have ended since it was found."""
        with self.changed:
            return job.last or self._view(job)

    def cancel(self, name: str) -> Edit | None:
        """Cancel an edit; None if there is none."""
        with self.changed:
            job = self.active.get(name)
            if job is not None:
                job.cancelled = True
                if job in self.waiting:
                    self.waiting.remove(job)
                    waited = True
                else:
                    waited = False
        if job is None:
            return self.view(name)
        if waited:
            self._end(job, "cancelled")
            self._moved()
        return self.look(job)

    def remove(self, name: str) -> bool:
        """Cancel an edit and remove it; False if there is none."""
        with self.changed:
            job = self.active.get(name)
            if job is not None:
                job.removed = True
        if self.cancel(name) is None:
            return False
        if self.find(name) is None:
            self.store.remove(name)
            self.unwritten.pop(name, None)
        return True

    def choose(self, name: str) -> None:
        """Make a model the current one: that of edits sent from now on."""
        with self.changed:
            self.current = name

    def loaded(self) -> set[str]:
        """Names of the models in memory."""
        return {FILL, *(worker.name_of_model for worker in self.workers if worker.name_of_model is not None)}

    def numbers(self) -> tuple[int, int]:
        """How many wait, and how many run."""
        with self.changed:
            return len(self.waiting), len(self.active) - len(self.waiting)

    # --- what workers do ----------------------------------------------------------------------------------------------

    def take(self, worker: Worker) -> Job | None:
        """Wait for an edit that a worker can begin; None when the server stops.

        Edits are begun in the order they came in. A worker with edits under way begins no edit with another model.
        """
        with self.changed:
            while not self.stopping:
                if self.waiting and worker.can_begin(self.waiting[0]):
                    job = self.waiting.popleft()
                    worker.busy += 1
                    job.state, job.started = "running", time.time()
                    self.metrics.waited.observe(job.started - job.created)
                    self._count()
                    break
                self.changed.wait()
            else:
                return None
        job.notify()
        self._moved()
        return job

    def release(self, worker: Worker) -> None:
        """A worker has a hand free."""
        with self.changed:
            worker.busy -= 1
            self.changed.notify_all()

    def finish(self, job: Job, made: list[Made]) -> None:
        """Save results; the edit is done."""
        results = []
        folder = self.output_dir or self.store.place(job.id)
        for index, one in enumerate(made):
            path = save_path(folder, job.name, job.id, index) if self.output_dir else folder / f"{index}.png"
            save_image(one.picture, path, one.info or asked_info(job.model, job.settings, one.seed))
            with path.open("rb") as file:
                os.fsync(file.fileno())
            width, height = one.picture.size
            results.append(
                Result(
                    index=index,
                    seed=one.seed,
                    url=f"/api/edits/{job.id}/results/{index}",
                    width=width,
                    height=height,
                    flagged=one.flagged,
                    boxes=list(one.boxes),
                    record=one.record,
                )
            )
        self._end(job, "done", results=results)

    def result_path(self, edit: Edit, index: int) -> Path:
        """Where a result lies, if it has not been removed."""
        if self.output_dir is not None:
            path = save_path(self.output_dir, edit.name, edit.id, index)
            if path.exists():
                return path
        return self.store.place(edit.id) / f"{index}.png"

    def fail(self, job: Job, message: str) -> None:
        """The edit cannot be done."""
        self._end(job, "failed", error=" ".join(message.split()))

    def stop_job(self, job: Job) -> None:
        """The edit was left, because it was cancelled or the server stops."""
        self._end(job, "cancelled" if job.cancelled else "interrupted")

    def stepped(self, job: Job, progress: Progress) -> None:
        """Note a step, and make a preview if it is time.

        Raises:
            Cancelled: the edit is to end.
        """
        if job.cancelled or self.stopping:
            raise Cancelled
        now = time.monotonic()
        with self.changed:
            job.step, job.steps, job.latest_step = progress.step, progress.steps, now
            if job.first_step is None:
                job.first_step = now
        if job.previewers and now >= job.next_preview and job.step < job.steps and progress.pictures is not None:
            job.preview, job.next_preview = make_preview(progress)
        job.notify()

    # --- within -------------------------------------------------------------------------------------------------------

    def _end(self, job: Job, state: State, results: list[Result] | None = None, error: str | None = None) -> None:
        now = time.time()
        with self.changed:
            edit = self._view(job).model_copy(
                update={
                    "state": state,
                    "place": None,
                    "seconds_left": None,
                    "finished": now,
                    "expires": None if results and self.output_dir else now + self.store.keep_seconds,
                    "results": results or [],
                    "error": error,
                }
            )
        try:
            self.store.remove_inputs(job.id)
            self.store.write(edit)
        except OSError as problem:
            logger.error("the edit %s could not be written: %s", job.id, problem)
            if state == "done":
                edit = edit.model_copy(update={"state": "failed", "results": [], "error": "the server's disk is full"})
            self.unwritten[job.id] = edit
        with self.changed:
            job.state, job.last = edit.state, edit
            self.active.pop(job.id, None)
            if job.started is not None and edit.state == "done":
                took = now - job.started
                self.metrics.seconds.observe(took)
                before = took if self.mean_seconds is None else self.mean_seconds
                self.mean_seconds = RECENT * before + (1 - RECENT) * took
            self.metrics.edits.labels(edit.state).inc()
            self._count()
        if job.removed:
            self.store.remove(job.id)
        job.notify()

    def _moved(self) -> None:
        """Tell those who wait that their places changed."""
        with self.changed:
            waiting = list(self.waiting)
        for job in waiting:
            job.notify()

    def _count(self) -> None:
        self.metrics.queued.set(len(self.waiting))
        self.metrics.running.set(len(self.active) - len(self.waiting))

    def _width(self) -> int:
        """Edits that run at once."""
        return sum(worker.lanes for worker in self.workers)

    def _view(self, job: Job) -> Edit:
        place = left = None
        if job.state == "queued" and job in self.waiting:
            place = self.waiting.index(job) + 1
            ahead = place + len(self.active) - len(self.waiting)
            left = None if self.mean_seconds is None else self.mean_seconds * max(ahead / self._width(), 1)
        elif job.state == "running":
            left = job.seconds_left()
        return Edit(
            id=job.id,
            state=job.state,
            place=place,
            model=job.model,
            name=job.name,
            created=job.created,
            started=job.started,
            step=job.step,
            steps=job.steps,
            seconds_left=None if left is None else round(left, 2),
        )
