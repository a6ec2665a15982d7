"""The application: routes to jobs, models, files and the page. docs/http-api.md says what each takes and gives."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import FastAPI, File, HTTPException, Query, Request, UploadFile
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image
from pydantic import Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from .. import __version__
from ..errors import UserError
from ..images import MAX_PIXELS
from ..library import Hole
from ..sampling import SCHEDULERS
from . import messages, uploads
from .access import LOOPBACK, Access
from .browsing import NotThere, RootName, Roots, thumbnail
from .edits import add_edits, add_structure
from .jobs import Jobs, QueueFull
from .library import Exemplars
from .maps import drawable

logger = logging.getLogger("paint_by_example.server")

PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}
MAX_LISTED = 200  # pictures of the library in an answer
Number = Annotated[int, PathParameter(ge=0, lt=2**63, description="a picture's id in the library")]
Tags = Annotated[
    list[Annotated[str, Field(max_length=200)]] | None, Query(max_length=16, description="that pictures must have")
]

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": messages.Problem, "description": "not a request of this API's kind"},
    401: {"model": messages.Problem, "description": "the token is missing or wrong"},
    403: {"model": messages.Problem, "description": "from another site's page, or switched off"},
    404: {"model": messages.Problem, "description": "there is no such thing"},
    409: {"model": messages.Problem, "description": "not there yet"},
    410: {"model": messages.Problem, "description": "removed"},
    413: {"model": messages.Problem, "description": "the upload is too large"},
    422: {"model": messages.Problem, "description": "what you can put right"},
    503: {"model": messages.Problem, "description": "the queue or the disk is full, or the server stops"},
}


@dataclass(frozen=True)
class Options:
    """What the application needs to know beside its jobs."""

    roots: Roots = field(default_factory=Roots)
    upload_bytes: int = 64 << 20
    pixels: int = MAX_PIXELS
    token: str | None = None
    hosts: tuple[str, ...] = LOOPBACK
    """Names this server goes by, without a token."""
    library: Exemplars | None = None
    preset: messages.PresetName = "none"
    """Of edits that name none."""


def create_app(jobs: Jobs, options: Options) -> FastAPI:
    """The application for some jobs.

    Args:
        jobs: started; whoever made them closes them.
        options: the rest.
    """
    app = FastAPI(
        title="Paint by Example",
        version=__version__,
        summary="Edit pictures by example.",
        docs_url=None,  # what FastAPI shows there loads scripts from elsewhere
        redoc_url=None,
        responses=ERRORS,
    )
    app.add_middleware(
        Access,
        token=options.token,
        hosts=options.hosts,
        upload_bytes=options.upload_bytes,
        full=jobs.retry_after,
        refused=lambda reason: jobs.metrics.refused.labels(reason).inc(),
    )
    _handle_errors(app, jobs)
    add_edits(app, jobs, options.pixels, options.preset)
    add_structure(app, jobs, options.pixels)
    _add_models(app, jobs)
    _add_files(app, options.roots)
    _add_library(app, options)
    _add_server(app, jobs, options)
    return app


def _handle_errors(app: FastAPI, jobs: Jobs) -> None:
    """Every error is one line of JSON."""

    def answer(status: int, message: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": " ".join(message.split())}, status, headers)

    @app.exception_handler(UserError)
    def user(request: Request, error: UserError) -> JSONResponse:
        jobs.metrics.refused.labels("unusable").inc()
        return answer(422, str(error))

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        jobs.metrics.refused.labels("unusable").inc()
        return answer(422, messages.one_line(error.errors()))

    @app.exception_handler(NotThere)
    def absent(request: Request, error: NotThere) -> JSONResponse:
        return answer(404, str(error))

    @app.exception_handler(QueueFull)
    def full(request: Request, error: QueueFull) -> JSONResponse:
        jobs.metrics.refused.labels("full").inc()
        return answer(503, str(error), {"Retry-After": str(error.seconds)})

    @app.exception_handler(OSError)
    def no_room(request: Request, error: OSError) -> JSONResponse:
        logger.error("%s %s could not be answered: %s", request.method, request.url.path, error)
        return answer(503, f"the server cannot keep what you sent: {error.strerror or type(error).__name__}")

    @app.exception_handler(StarletteHTTPException)
    def other(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return answer(error.status_code, str(UserError(str(error.detail))), error.headers)


def _add_models(app: FastAPI, jobs: Jobs) -> None:
    def models() -> messages.Models:
        listed = jobs.shelf.listed(jobs.loaded())
        return messages.Models(current=jobs.current, switch=jobs.switch, models=listed)

    @app.get("/api/models", response_model=messages.Models, tags=["models"], summary="The models")
    def every() -> messages.Models:
        return models()

    @app.put(
        "/api/models/current", response_model=messages.Models, tags=["models"], summary="Choose the model of new edits"
    )
    def choose(chosen: messages.Chosen) -> messages.Models:
        if chosen.name not in jobs.shelf.models:
            raise NotThere(f"there is no model {chosen.name!r}; GET /api/models lists them")
        if not jobs.switch and chosen.name != jobs.current:
            raise HTTPException(403, "the server was started with --disable-model-switch")
        jobs.choose(chosen.name)
        return models()


def _add_files(app: FastAPI, roots: Roots) -> None:
    @app.get("/api/files", response_model=messages.Folder, tags=["files"], summary="What is in a folder")
    def files(root: RootName = "input", folder: Annotated[str, Query(max_length=1000)] = "") -> messages.Folder:
        return roots.list(root, folder)

    @app.get(
        "/api/files/picture",
        tags=["files"],
        summary="A picture, whole or small",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}},
    )
    def picture(
        path: Annotated[str, Query(max_length=1000)],
        root: RootName = "input",
        size: Annotated[int | None, Query(ge=16, le=1024)] = None,
    ) -> Response:
        place, kind = roots.picture(root, path)
        if size is None:
            return FileResponse(place, media_type=kind)
        try:
            return Response(thumbnail(place, size), media_type="image/jpeg")
        except UserError as error:
            raise UserError(str(error).replace(str(place), path)) from None


def _add_library(app: FastAPI, options: Options) -> None:
    decoders = anyio.CapacityLimiter(uploads.DECODERS)

    def library() -> Exemplars:
        if options.library is None:
            raise NotThere("the server was started without --library")
        return options.library

    @app.get("/api/library", response_model=messages.LibraryPage, tags=["library"], summary="Pictures of the library")
    def browse(
        tag: Tags = None,
        like: Annotated[int | None, Query(ge=0, lt=2**63, description="a picture's id")] = None,
        text: Annotated[str | None, Query(max_length=1000, description="what they should show")] = None,
        start: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        count: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 24,
    ) -> messages.LibraryPage:
        if text is not None:
            if like is not None:
                raise UserError("like and text do not go together: give one of them")
            return library().rank(library().worded(text, tag or ()), tag or (), start, count)
        if like is not None:
            return library().rank(library().like_one(like, tag or ()), tag or (), start, count)
        return library().browse(tag or (), start, count)

    @app.post(
        "/api/library/search",
        response_model=messages.LibraryPage,
        tags=["library"],
        summary="Pictures like an exemplar, or that fit a hole",
    )
    async def search(
        exemplar: Annotated[UploadFile | None, File(description="to be like")] = None,
        source: Annotated[UploadFile | None, File(description="with a hole to fit")] = None,
        mask: Annotated[UploadFile | None, File(description="white where the hole is")] = None,
        tag: Tags = None,
        start: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        count: Annotated[int, Query(ge=1, le=MAX_LISTED)] = 24,
    ) -> messages.LibraryPage:
        def find() -> messages.LibraryPage:
            found = library()
            like, hole = _read_query(exemplar, source, mask, options.pixels)
            if hole is not None:
                return found.rank(found.fitting(hole, like, tag or ()), tag or (), start, count)
            if like is None:
                raise UserError("nothing to search by was sent: send an exemplar, or a source and a mask")
            return found.rank(found.like(like, tag or ()), tag or (), start, count)

        async with decoders:
            return await anyio.to_thread.run_sync(find)

    @app.get(
        "/api/library/{name}/thumbnail",
        tags=["library"],
        summary="A picture in small",
        response_class=Response,
        responses={200: {"content": {"image/webp": {}}}},
    )
    def small(name: Number) -> Response:
        return Response(library().thumbnail(name), media_type="image/webp")

    @app.get(
        "/api/library/{name}/picture",
        tags=["library"],
        summary="A picture, to be sent as an exemplar",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}}},
    )
    def whole(name: Number) -> Response:
        content, kind = library().picture(name)
        return Response(content, media_type=kind)


def _read_query(
    exemplar: UploadFile | None, source: UploadFile | None, mask: UploadFile | None, pixels: int
) -> tuple[Image.Image | None, Hole | None]:
    """What a library is searched by: a picture to be like, and a hole to fit.

    Raises:
        UserError: something cannot be used.
    """
    if (source is None) != (mask is None):
        raise UserError("source and mask belong together: send both, or neither")
    with tempfile.TemporaryDirectory() as folder:

        def kept(upload: UploadFile, what: str) -> tuple[Path, str]:
            path, name = Path(folder) / what, uploads.file_name(upload.filename, what)
            uploads.save_upload(upload.file, path)
            uploads.check_picture(path, what, name, pixels)
            return path, name

        like = None if exemplar is None else uploads.read_exemplar(*kept(exemplar, "exemplar"))
        if source is None or mask is None:
            return like, None
        photograph = uploads.read_source(*kept(source, "source"))
        return like, Hole.of(photograph, uploads.read_mask(*kept(mask, "mask"), photograph.size))


def _add_server(app: FastAPI, jobs: Jobs, options: Options) -> None:
    @app.get("/api/server", response_model=messages.About, tags=["server"], summary="What this server can do")
    def about() -> messages.About:
        return messages.About(
            version=__version__,
            devices=[str(worker.device) for worker in jobs.workers],
            input=options.roots.about_input(),
            output=options.roots.output is not None,
            library=None if options.library is None else options.library.about(),
            keep_seconds=jobs.store.keep_seconds,
            schedulers=list(SCHEDULERS),
            structures=drawable(jobs.shelf.loading.pose_models),
            preset=options.preset,
            limits=messages.Limits(upload_bytes=options.upload_bytes, pixels=options.pixels, queue=jobs.capacity),
        )

    @app.get("/health", response_model=messages.Health, tags=["server"], summary="Whether the server is well")
    def health(response: Response) -> messages.Health:
        queued, running = jobs.numbers()
        if jobs.stopping or jobs.failing:
            response.status_code = 503
            return messages.Health(status="stopping" if jobs.stopping else "failing", queued=queued, running=running)
        return messages.Health(status="ok", queued=queued, running=running)

    @app.get("/metrics", tags=["server"], summary="For Prometheus", response_class=Response)
    def metrics() -> Response:
        return Response(jobs.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return _page_file("index.html")

    @app.get("/page/{path:path}", include_in_schema=False)
    def page_file(path: str) -> FileResponse:
        return _page_file(path)


def _page_file(path: str) -> FileResponse:
    try:
        place = (PAGE / path).resolve()
        there = place.is_relative_to(PAGE.resolve()) and place.is_file()
    except (OSError, ValueError):  # a name too long, or with a zero byte
        there = False
    if not there or place.suffix not in PAGE_TYPES:
        raise NotThere("there is no such page")
    return FileResponse(place, media_type=PAGE_TYPES[place.suffix], headers={"Cache-Control": "no-cache"})
