"""One network call for several edits at once, each of which goes on as if it had the network for itself.

Every edit runs in a thread of its own. Where it calls the U-Net, its call waits a moment for those of the other edits,
all of them go through the network as one batch, and each gets its part back. So edits may differ in everything but the
model: steps, solver, guidance, regions; they join and leave between any two calls, and cancelling one is no matter for
the others. Kernels differ between sizes of batch, so results agree with those made alone up to rounding, not to the
last bit.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

WAIT = 0.5  # of a call's duration: how long it waits for the others at most
WORTH = 0.9  # a batch is used if an edit's share of its time is at most this part of its time alone


class Call:
    """What one edit asks of the network."""

    def __init__(
        self, x: Tensor, t: Tensor, condition: Tensor, scale: Tensor | None, hints: dict[str, Any] | None = None
    ) -> None:
        self.given = (x, t, condition, scale, hints or {})
        self.x, self.t, self.condition = x, t.expand(len(x)), condition.expand(len(x), -1, -1)
        self.scale = None if scale is None else scale.expand(len(x), -1)
        self.answer: Tensor | None = None
        self.error: BaseException | None = None

    @property
    def shape(self) -> tuple[Any, ...]:
        """Calls of one shape go together; those with hints of a source of their own go alone."""
        return (*self.x.shape[1:], *self.condition.shape[1:], self.x.dtype, id(self) if self.given[-1] else None)


class SharedNetwork:
    """Takes the place of a U-Net's ``forward`` while several threads edit.

    Args:
        network: the U-Net.
        observe: told the number of edits in each batch.
        patient: calls wait for those of all edits under way, however long that takes.
        threads: of torch that calls compute with, in a thread of their own; by default they are made by the edits'.
    """

    def __init__(
        self,
        network: nn.Module,
        observe: Callable[[int], None] = lambda size: None,
        patient: bool = False,
        threads: int | None = None,
    ) -> None:
        self.network, self.observe, self.patient = network, observe, patient
        # Its own, since each thread that computes with several others starts those anew.
        self.runner = None if threads is None else ThreadPoolExecutor(1, "network", torch.set_num_threads, (threads,))
        self.forward = network.forward
        self.edits = 0  # that are under way
        self.waiting: list[Call] = []
        self.busy = False
        self.seconds = 0.0  # that the last call took
        self.changed = threading.Condition()

    @contextlib.contextmanager
    def edit(self) -> Iterator[None]:
        """Within it, the network's calls from this thread are shared with the other threads'."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def begin(self, edits: int = 1) -> None:
        """Expect calls of so many edits, until `end` was called for each."""
        with self.changed:
            if self.edits == 0:
                self.network.forward = self
            self.edits += edits

    def end(self) -> None:
        """An edit calls no more."""
        with self.changed:
            self.edits -= 1
            if self.edits == 0:
                self.network.forward = self.forward
            self.changed.notify_all()

    def __call__(
        self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, timestep_cond: Tensor | None = None, **hints: Any
    ) -> Any:
        """As the U-Net's own: x (B, C, h, w), t () or (B,), condition (B, 1, D), λ (1 or B, W) or None; like x."""
        call = Call(x, t, encoder_hidden_states, timestep_cond, hints)
        with self.changed:
            self.waiting.append(call)
            self.changed.notify_all()
            deadline = time.monotonic() + WAIT * self.seconds
            while call.answer is None and call.error is None:
                missing = len(self.waiting) < self.edits and (self.patient or time.monotonic() < deadline)
                if not self.busy and not missing:
                    self._run(call.shape)
                elif self.busy or self.patient:
                    self.changed.wait()
                    deadline = time.monotonic() + WAIT * self.seconds
                else:
                    self.changed.wait(max(0.0, deadline - time.monotonic()))
        if call.error is not None:
            raise call.error
        return _Output(call.answer)

    def _run(self, shape: tuple[Any, ...]) -> None:
        """Run the calls of a shape that wait, in this thread; the lock is released meanwhile."""
        calls = [call for call in self.waiting if call.shape == shape]
        self.waiting = [call for call in self.waiting if call.shape != shape]
        self.busy = True
        self.changed.release()
        started = time.monotonic()
        answers: list[Tensor] = []
        error: BaseException | None = None
        try:
            if len(calls) == 1:  # untouched, so that an edit alone is the same bit for bit
                answers = [self._forward(*calls[0].given)]
            else:
                x, t, condition = (torch.cat([getattr(one, name) for one in calls]) for name in ("x", "t", "condition"))
                scales = [one.scale for one in calls if one.scale is not None]  # of one network all are, or none
                sample = self._forward(x, t, condition, torch.cat(scales) if scales else None)
                answers = [part.clone() for part in sample.split([len(one.x) for one in calls])]
            self.observe(len(calls))
        except BaseException as problem:  # whatever it is, nobody may wait for ever
            error = problem
        finally:
            self.changed.acquire()
            self.busy, self.seconds = False, time.monotonic() - started
            for one, answer in zip(calls, answers, strict=error is None):
                one.answer = answer
            for one in calls:
                one.error = error
            self.changed.notify_all()

    def _forward(
        self, x: Tensor, t: Tensor, condition: Tensor, scale: Tensor | None, hints: dict[str, Any] | None = None
    ) -> Tensor:
        told = {} if scale is None else {"timestep_cond": scale}
        network = torch.no_grad()(self.forward)  # a thread of its own does not know that the edits go without gradients
        forward = partial(network, x, t, encoder_hidden_states=condition, **told, **(hints or {}))
        return cast(Tensor, (forward() if self.runner is None else self.runner.submit(forward).result()).sample)


class _Output:
    """What the U-Net's own call gives, as far as it is used."""

    def __init__(self, sample: Tensor | None) -> None:
        self.sample = sample


@torch.no_grad()
def worthwhile(network: Any, size: int, condition: Tensor, calls: int = 3) -> int:
    """Measure how many edits to batch: at most so many, and 1 where an edit's share of the time is hardly less.

    Args:
        network: a U-Net.
        size: edits at most.
        condition: (1, 1, D), on the network's device and of its type.
        calls: how many to time for each size; the fastest counts.
    """
    if size == 1:
        return 1
    config = network.config
    shape = (config.in_channels, config.sample_size, config.sample_size)

    def seconds(edits: int) -> float:
        x = torch.zeros(2 * edits, *shape, device=condition.device, dtype=condition.dtype)  # both halves of guidance
        t = torch.full((2 * edits,), 500, device=condition.device)
        best = float("inf")
        for call in range(calls + 1):
            started = time.perf_counter()
            sample = network(x, t, encoder_hidden_states=condition.expand(len(x), -1, -1)).sample
            sample.flatten()[:1].cpu()  # waits for the device
            if call:  # the first one also loads kernels
                best = min(best, time.perf_counter() - started)
        return best

    alone, together = seconds(1), seconds(size)
    return size if together / size <= WORTH * alone else 1
