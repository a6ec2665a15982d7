"""One device at work: a model in memory, and edits with it, one by one or several that share the network's calls."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from ..batching import SharedNetwork, worthwhile
from ..errors import UserError
from .erasing import Telea
from .models import FILL
from .painting import Cancelled

if TYPE_CHECKING:
    import torch

    from .jobs import Job, Jobs
    from .painting import Model

logger = logging.getLogger("paint_by_example.server")


class Worker(threading.Thread):
    """Does the edits on one device.

    Args:
        jobs: where they come from.
        device: to use.
    """

    def __init__(self, jobs: Jobs, device: torch.device) -> None:
        super().__init__(name=f"worker {device}", daemon=True)
        self.jobs, self.device = jobs, device
        self.busy = 0
        self.lanes = 1
        self.fill = Telea()
        self.model: Model | None = None
        self.name_of_model: str | None = None
        self.shared: SharedNetwork | None = None
        self.hands = ThreadPoolExecutor(max(jobs.batch, 1), thread_name_prefix=f"edit on {device}")

    def can_begin(self, job: Job) -> bool:
        """Whether there is a hand free for it; asked under the queue's lock."""
        return self.busy == 0 or (job.model in (self.name_of_model, FILL) and self.busy < self.lanes)

    def run(self) -> None:
        """Until the server stops."""
        while (job := self.jobs.take(self)) is not None:
            try:
                self.use(job.model)
            except Exception as error:
                self._failed(job, error)
                self.jobs.release(self)
                continue
            if self.lanes == 1:
                self._edit(job)
            else:
                self.hands.submit(self._edit, job)
        self.hands.shutdown(wait=True)

    def use(self, name: str) -> None:
        """Have a model in memory, and no other; the fill that needs no weights is always there.

        Raises:
            UserError: it cannot be loaded.
        """
        import torch

        if name in (self.name_of_model, FILL):
            return
        self.model = self.name_of_model = self.shared = None
        self.lanes = 1
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        model = self.jobs.shelf.load(name, self.device)
        network = model.network() if self.jobs.batch > 1 else None
        if network is not None:
            lanes = worthwhile(network[0], self.jobs.batch, network[1])
            if lanes > 1:
                self.shared, self.lanes = SharedNetwork(network[0], self.jobs.metrics.batch.observe), lanes
        self.model, self.name_of_model = model, name

    def _edit(self, job: Job) -> None:
        try:
            model = self.fill if job.model == FILL else self.model
            assert model is not None
            if job.cancelled or self.jobs.stopping:
                raise Cancelled
            work = job.load()
            shared = None if model is self.fill else self.shared
            with contextlib.nullcontext() if shared is None else shared.edit():
                made = model.edit(work, lambda progress: self.jobs.stepped(job, progress))
            self.jobs.finish(job, made)
        except Exception as error:
            self._failed(job, error)
        finally:
            self.jobs.release(self)

    def _failed(self, job: Job, error: Exception) -> None:
        import torch

        if isinstance(error, Cancelled):
            self.jobs.stop_job(job)
        elif isinstance(error, UserError):
            self.jobs.fail(job, str(error))
        elif isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()
            self.jobs.fail(job, f"there is not enough memory on {self.device}; ask for fewer candidates")
        else:
            logger.error("the edit %s failed", job.id, exc_info=error)
            self.jobs.fail(job, f"the server could not do this: {type(error).__name__}; its log says more")
