"""Server-sent events of an edit: what changed since the last one, so that a slow reader misses steps, not states."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from .jobs import Jobs, Listener
from .messages import Edit
from .previews import Preview
from .store import ENDED

AWAKE_SECONDS = 15.0


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
    sent: Edit | None = None
    seen: Preview | None = None
    try:
        while True:
            listener.event.clear()
            now = jobs.look(job)
            if sent is None or (now.state, now.place) != (sent.state, sent.place):
                yield _event("state", now)
            if now.state in ENDED:
                return
            if sent is not None and now.step != sent.step:
                step = {"step": now.step, "steps": now.steps, "seconds_left": now.seconds_left}
                yield _event("step", step)
            if previews and job.preview is not None and job.preview is not seen:
                seen = job.preview
                yield _event("preview", asdict(seen))
            sent = now
            while not listener.event.is_set():
                try:
                    await asyncio.wait_for(listener.event.wait(), AWAKE_SECONDS)
                except TimeoutError:
                    yield ": awake\n\n"
    finally:
        job.listeners.discard(listener)
        job.previewers -= previews


def _event(name: str, data: BaseModel | dict[str, Any]) -> str:
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data)
    return f"event: {name}\ndata: {text}\n\n"
