"""Server-sent events of an edit: what changed since the last one, so that a slow reader misses steps, not states."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from .jobs import Jobs, Listener
from .messages import Edit
from .previews import Preview
from .store import ENDED

AWAKE_SECONDS = 15.0
PLACE_SECONDS = 0.5  # between two places in the queue that an edit is told of: a queue may move fast


async def event_stream(jobs: Jobs, edit: Edit, previews: bool) -> AsyncIterator[str]:
    """The events of an edit until it has ended.

    Args:
        jobs: among which it is.
        edit: as it stands now.
        previews: whether to send those.

    Yields:
        Pieces of a ``text/event-stream``.
    """
    job = jobs.find(edit.id)
    if job is None:
        yield _event("state", jobs.view(edit.id) or edit)
        return
    listener = Listener()
    job.listeners.add(listener)
    job.previewers += previews
    sent: Edit | None = None  # the last state
    step, told = 0, 0.0
    seen: Preview | None = None
    try:
        while True:
            listener.event.clear()
            now, moment = jobs.look(job), time.monotonic()
            moved = sent is not None and now.place != sent.place
            if sent is None or now.state != sent.state or (moved and moment - told >= PLACE_SECONDS):
                sent, told, moved = now, moment, False
                yield _event("state", now)
            if now.state in ENDED:
                return
            if now.step != step:
                step = now.step
                yield _event("step", {"step": step, "steps": now.steps, "seconds_left": now.seconds_left})
            if previews and job.preview is not None and job.preview is not seen:
                seen = job.preview
                yield _event("preview", asdict(seen))
            try:
                await asyncio.wait_for(listener.event.wait(), PLACE_SECONDS if moved else AWAKE_SECONDS)
            except TimeoutError:
                if not moved:
                    yield ": awake\n\n"
    finally:
        job.listeners.discard(listener)
        job.previewers -= previews


def _event(name: str, data: BaseModel | dict[str, Any]) -> str:
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"
