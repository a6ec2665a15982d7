"""The routes of edits: made, followed, fetched, cancelled, removed, and shown the structure of."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, File, Form, HTTPException, Query, Response, UploadFile
from fastapi.responses import FileResponse, StreamingResponse

from ..errors import UserError
from ..record import read_record
from . import messages, uploads
from .browsing import NotThere
from .events import event_stream
from .jobs import Job, Jobs
from .maps import check_drawable, maps
from .messages import MAX_EXEMPLARS, MAX_REGIONS, State, read_settings
from .painting import read_asked
from .store import new_id
from .submission import Submission

LISTED = 100
ID = Annotated[str, "an edit's id"]
Masks = Annotated[list[UploadFile] | None, File(max_length=MAX_REGIONS, description="white where to repaint")]
Sketch = Annotated[UploadFile | None, File(description="with the structure sketch: a drawing of the source's size")]
SettingsText = Annotated[
    str,
    Form(
        max_length=100_000,
        description="a JSON object, see docs/http-api.md",
        examples=['{"regions": [{"box": [40, 60, 200, 220]}], "seeds": [0, 1], "guidance_scale": 5}'],
    ),
]
JSON_SETTINGS = {
    "requestBody": {"content": {"multipart/form-data": {"encoding": {"settings": {"contentType": "application/json"}}}}}
}


def add_edits(app: FastAPI, jobs: Jobs, pixels: int, preset: messages.PresetName) -> None:
    """Give an application the routes of edits.

    Args:
        app: the application.
        jobs: where edits are queued.
        pixels: of a picture, at most.
        preset: of edits that name none.
    """
    decoders = anyio.CapacityLimiter(uploads.DECODERS)

    @app.post(
        "/api/edits",
        status_code=202,
        response_model=messages.Edit,
        tags=["edits"],
        summary="Make an edit",
        openapi_extra=JSON_SETTINGS,
    )
    async def make(
        response: Response,
        source: Annotated[UploadFile, File(description="the picture to edit")],
        mask: Masks = None,
        exemplar: Annotated[
            list[UploadFile] | None, File(max_length=MAX_EXEMPLARS, description="what to paint")
        ] = None,
        sketch: Sketch = None,
        settings: SettingsText = "{}",
    ) -> messages.Edit:
        asked = read_settings(settings)
        model = asked_model(jobs, asked)
        check_drawable(asked.structure, jobs.shelf.loading.pose_models)
        if asked.preset is None and model.kind == "exemplar":
            asked = asked.model_copy(update={"preset": preset})
        name = new_id()
        submission = Submission(jobs.store.place(name) / "inputs", pixels)
        try:
            async with decoders:
                load = await anyio.to_thread.run_sync(
                    lambda: submission.check(source, mask or [], exemplar or [], sketch, asked, model)
                )
            job = Job(id=name, name=submission.stem, model=model.name, settings=asked, load=load)
            edit = await anyio.to_thread.run_sync(jobs.submit, job)
        except BaseException:  # a client that goes, too
            jobs.store.remove(name)
            raise
        response.headers["Location"] = f"/api/edits/{name}"
        return edit

    def found(edit: messages.Edit | None, name: str) -> messages.Edit:
        if edit is None:
            raise HTTPException(404, f"there is no edit {name[:40]}: it may have expired")
        return edit

    @app.get("/api/edits", response_model=messages.Edits, tags=["edits"], summary="The newest edits")
    def newest(state: State | None = None) -> messages.Edits:
        edits = []
        for stored in jobs.store.newest():
            edit = jobs.view(stored.id)
            if edit is not None and state in (None, edit.state):
                edits.append(edit)
            if len(edits) == LISTED:
                break
        return messages.Edits(edits=edits)

    @app.get("/api/edits/{name}", response_model=messages.Edit, tags=["edits"], summary="How an edit stands")
    def one(name: ID) -> messages.Edit:
        return found(jobs.view(name), name)

    @app.get(
        "/api/edits/{name}/events",
        tags=["edits"],
        summary="Server-sent events: state, step, preview",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}},
    )
    async def events(name: ID, previews: Annotated[int, Query(ge=0, le=1)] = 1) -> StreamingResponse:
        edit = found(await anyio.to_thread.run_sync(jobs.view, name), name)
        stream = event_stream(jobs, edit, bool(previews))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

    @app.get(
        "/api/edits/{name}/results/{index}",
        tags=["edits"],
        summary="A result",
        response_class=FileResponse,
        responses={200: {"content": {"image/png": {}}}},
    )
    def result(name: ID, index: int) -> FileResponse:
        edit = found(jobs.view(name), name)
        if edit.state in ("queued", "running"):
            raise HTTPException(409, f"the edit is {edit.state}; wait until it is done")
        if not 0 <= index < len(edit.results):
            raise HTTPException(404, f"the edit is {edit.state} and has {len(edit.results)} results, from 0 on")
        path = jobs.result_path(edit, index)
        if not path.is_file():
            raise HTTPException(410, "the result's file has been removed")
        return FileResponse(
            path, media_type="image/png", filename=f"{edit.name}-{index}.png", content_disposition_type="inline"
        )

    @app.post("/api/edits/{name}/cancel", response_model=messages.Edit, tags=["edits"], summary="Cancel an edit")
    def cancel(name: ID) -> messages.Edit:
        return found(jobs.cancel(name), name)

    @app.delete("/api/edits/{name}", status_code=204, tags=["edits"], summary="Remove an edit with its results")
    def remove(name: ID) -> None:
        if not jobs.remove(name):
            found(None, name)

    @app.post("/api/record", tags=["edits"], summary="How a result was made, from its PNG file")
    async def record(picture: Annotated[UploadFile, File()]) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            with tempfile.TemporaryDirectory() as folder:
                path, name = Path(folder) / "picture", uploads.file_name(picture.filename, "picture")
                uploads.save_upload(picture.file, path)
                try:
                    uploads.check_picture(path, "picture", name, pixels)
                    asked = read_asked(path)
                    values: dict[str, Any] = asked or json.loads(json.dumps(asdict(read_record(path)), allow_nan=False))
                except UserError as error:
                    raise UserError(str(error).replace(str(path), name)) from None
            return values

        async with decoders:
            return await anyio.to_thread.run_sync(read)


def asked_model(jobs: Jobs, asked: messages.Settings) -> messages.Model:
    """What is known of the model that an edit is for."""
    name = asked.model or jobs.current
    if name not in jobs.shelf.models:
        raise NotThere(f"there is no model {name!r}; GET /api/models lists them")
    if not jobs.switch and name != jobs.current:
        raise HTTPException(403, "the server was started with --disable-model-switch")
    return jobs.shelf.known(name)


def add_structure(app: FastAPI, jobs: Jobs, pixels: int) -> None:
    """Give an application the route that shows an edit's structure; see `add_edits`."""
    decoders = anyio.CapacityLimiter(uploads.DECODERS)

    @app.post(
        "/api/structure",
        response_model=messages.StructureMaps,
        tags=["edits"],
        summary="What an edit would be told of the structure of what stands in its regions",
        openapi_extra=JSON_SETTINGS,
    )
    async def structure(
        source: Annotated[UploadFile, File(description="the picture to edit")],
        mask: Masks = None,
        sketch: Sketch = None,
        settings: SettingsText = "{}",
    ) -> messages.StructureMaps:
        asked = read_settings(settings)
        model, pose_models = asked_model(jobs, asked), jobs.shelf.loading.pose_models
        if asked.structure is None:
            raise UserError("there is nothing to draw: say which structure in settings")
        check_drawable(asked.structure, pose_models)
        size = model.image_size
        if model.kind != "exemplar" or size is None:
            why = "has not been loaded yet" if model.kind == "exemplar" else "takes no structure"
            raise UserError(f"the model {model.name} {why}, so there is nothing to draw; choose another model")

        def draw() -> messages.StructureMaps:
            with tempfile.TemporaryDirectory() as folder:
                work = Submission(Path(folder) / "inputs", pixels).look(source, mask or [], sketch, asked)
            return messages.StructureMaps(maps=maps(work, size, pose_models))

        async with decoders:
            return await anyio.to_thread.run_sync(draw)
