"""The study's page and what it asks for. Nothing that reaches a browser names a method.

    POST /api/people                          a new person: {"person": id}
    GET  /api/people/{id}                     how far they are, and the next group
    GET  /api/people/{id}/groups/{n}/{part}   a picture: source, exemplar, or the number of a result
    PUT  /api/people/{id}/groups/{n}          ranks: {"quality": [2, 1, ...], "consistency": [...]}

Who may ask is not decided here: whoever serves this puts a guard before it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from PIL import Image

from .. import __version__
from ..errors import DataError, UserError
from .benchmark import Benchmark, Item, Pixels
from .report import outlined
from .scoring import find_results, read_result
from .study import CRITERIA, Study

PAGE = Path(__file__).parent / "study_page"
FILES = {"study.js": "text/javascript; charset=utf-8", "study.css": "text/css; charset=utf-8"}


def create_app(study: Study, benchmark: Benchmark, results: dict[str, Path]) -> FastAPI:
    """The application for a study.

    Args:
        study: open; whoever made it closes it.
        benchmark: that its items are of.
        results: folder of each method.

    Raises:
        DataError: the benchmark lacks an item, or a method a result.
    """
    places = {name: index for index, name in enumerate(benchmark.names)}
    if lost := [name for name in study.plan.items if name not in places]:
        raise DataError(f"the benchmark has no item {lost[0]}; give the one the study was made for")
    files = {
        method: dict(zip(study.plan.items, find_results(results[method], study.plan.items), strict=True))
        for method in study.plan.methods
    }
    app = FastAPI(title="User study", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(UserError)
    def refused(request: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    def group(person: str, number: int) -> str:
        try:
            groups = study.groups(person)
        except KeyError:
            raise HTTPException(404, "there is no such person") from None
        if not 0 <= number < len(groups):
            raise HTTPException(404, "there is no such group")
        return groups[number]

    @app.post("/api/people", status_code=201)
    def enter() -> dict[str, str]:
        return {"person": study.enter()}

    @app.get("/api/people/{person}")
    def standing(person: str) -> dict[str, Any]:
        group(person, 0)
        answered, groups = study.answered(person), study.groups(person)
        open_groups = [number for number, item in enumerate(groups) if item not in answered]
        return {
            "groups": len(groups),
            "done": len(groups) - len(open_groups),
            "next": open_groups[0] if open_groups else None,
            "results": len(study.plan.methods),
            "criteria": CRITERIA,
        }

    @app.get("/api/people/{person}/groups/{number}/{part}")
    def picture(person: str, number: int, part: str) -> Response:
        name = group(person, number)
        item: Item = benchmark[places[name]]
        methods = study.methods(person, name)
        if part == "source":
            return png(outlined(item))
        if part == "exemplar":
            return png(item.exemplar)
        if not (part.isascii() and part.isdigit() and int(part) < len(methods)):
            raise HTTPException(404, "there is no such picture")
        return png(read_result(files[methods[int(part)]][name], item))

    @app.put("/api/people/{person}/groups/{number}", status_code=204)
    def answer(person: str, number: int, ranks: dict[str, list[int]]) -> None:
        study.answer(person, group(person, number), ranks)

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", media_type="text/html; charset=utf-8")

    @app.get("/page/{name}")
    def page_file(name: str) -> FileResponse:
        if name not in FILES:
            raise HTTPException(404, "there is no such file")
        return FileResponse(PAGE / name, media_type=FILES[name])

    return app


def png(pixels: Pixels) -> Response:
    """A picture, (H, W, 3), written anew: a method's own file might say in its metadata whose it is."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return Response(stream.getvalue(), media_type="image/png")
