"""What goes over the wire: the settings of an edit, and what is answered. docs/http-api.md explains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import UserError
from ..harmonise import HarmoniseName
from ..structure import StructureKind

MAX_STEPS = 250
MAX_CANDIDATES = 8
MAX_REGIONS = 16
MAX_EXEMPLARS = 16

State: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Kind: TypeAlias = Literal["exemplar", "erase", "prompt", "instruct"]
SchedulerName: TypeAlias = Literal["ddim", "pndm", "dpm++", "unipc"]
PresetName: TypeAlias = Literal["none", "exact", "fast", "draft"]
"""Of speed; none changes nothing."""
Told: TypeAlias = Literal["structure", "context", "source_exemplar", "harmonise"]
"""Settings by which an edit heeds what stood in its regions."""

Number: TypeAlias = Annotated[int, Field(ge=0, lt=64)]
Side: TypeAlias = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**64)]
BoxSides: TypeAlias = tuple[Side, Side, Side, Side]


class Asked(BaseModel):
    """Something a client sends: unknown fields and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Region(Asked):
    """A part of the source to repaint."""

    mask: Number | None = None
    """Which of the masks."""
    box: BoxSides | None = None
    """Or left, top, right, bottom, in pixels."""
    exemplars: Annotated[list[Number], Field(min_length=1, max_length=MAX_EXEMPLARS)] | None = None
    """Which exemplars; the only one, or the one of the region's number, if left out."""
    weights: list[float] | None = None
    """One for each exemplar."""

    @model_validator(mode="after")
    def _one_place(self) -> Region:
        if (self.mask is None) == (self.box is None):
            raise ValueError("give a mask's number or a box, one of them")
        return self


class Settings(Asked):
    """All about an edit but its pictures. What is None is the model's own."""

    model: Annotated[str, Field(max_length=200)] | None = None
    regions: Annotated[list[Region], Field(min_length=1, max_length=MAX_REGIONS)] | None = None
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=MAX_CANDIDATES)] = Field(default=[0])
    guidance_scale: Annotated[float, Field(ge=-100, le=100)] | None = None
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    scheduler: SchedulerName | None = None
    preset: PresetName | None = None
    """None: the server's own."""
    feather: Annotated[int, Field(ge=0, le=1000)] = 0
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    structure: StructureKind | None = None
    structure_scale: Annotated[float, Field(ge=-100, le=100)] = 1.0
    context: bool = False
    source_exemplar: Annotated[float, Field(ge=0, le=1)] = 0.0
    harmonise: HarmoniseName | None = None
    prompt: Annotated[str, Field(max_length=2000)] = ""
    negative_prompt: Annotated[str, Field(max_length=2000)] = ""


class Chosen(Asked):
    """The body of ``PUT /api/models/current``."""

    name: Annotated[str, Field(max_length=200, examples=["cv2"])]


class Result(BaseModel):
    """One candidate."""

    index: int
    seed: int
    url: str
    width: int
    height: int
    flagged: bool | None = None
    boxes: list[BoxSides] = []
    record: dict[str, Any] | None = None


class Edit(BaseModel):
    """How an edit stands."""

    id: str
    state: State
    place: int | None = None
    model: str
    name: str
    created: float
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    step: int = 0
    steps: int = 0
    seconds_left: float | None = None
    error: str | None = None
    results: list[Result] = []


class Edits(BaseModel):
    """Several of them."""

    edits: list[Edit]


class Model(BaseModel):
    """A line of the list of models."""

    name: str
    kind: Kind
    image_size: int | None = None
    steps: int | None = None
    scheduler: str | None = None
    takes: list[Told] | None = None
    """Of these settings those that it can do."""
    loaded: bool = False


class Models(BaseModel):
    """The list of models."""

    current: str
    switch: bool
    models: list[Model]


class StructureMap(BaseModel):
    """What an edit is told of the structure in one of its regions."""

    region: int
    box: BoxSides
    """The square that is painted, pixels of the source."""
    picture: str
    """A PNG file as a data URL."""


class StructureMaps(BaseModel):
    """Of all its regions, in their order."""

    maps: list[StructureMap]


class Entry(BaseModel):
    """A folder or picture of ``--input`` or ``--output-dir``."""

    name: str
    kind: Literal["folder", "picture"]
    bytes: int | None = None
    modified: float | None = None


class Folder(BaseModel):
    """What is in a folder."""

    root: Literal["input", "output"]
    folder: str
    entries: list[Entry]


class InputRoot(BaseModel):
    """What ``--input`` is."""

    kind: Literal["folder", "picture"]
    picture: str | None = None


class LibraryPicture(BaseModel):
    """A picture of the library."""

    id: int
    name: str
    width: int
    height: int
    licence: str | None
    tags: list[str]
    score: float
    likeness: float | None


class LibraryPage(BaseModel):
    """Some of the pictures that were asked for."""

    total: int
    pictures: list[LibraryPicture]


class AboutLibrary(BaseModel):
    """What is in the library."""

    pictures: int
    tags: list[str]
    text: bool
    """Whether words find them."""


class Limits(BaseModel):
    """What an edit may ask for at most."""

    upload_bytes: int
    pixels: int
    candidates: int = MAX_CANDIDATES
    steps: int = MAX_STEPS
    regions: int = MAX_REGIONS
    exemplars: int = MAX_EXEMPLARS
    queue: int


class About(BaseModel):
    """What the page needs to know of the server."""

    version: str
    devices: list[str]
    input: InputRoot | None
    output: bool
    library: AboutLibrary | None
    keep_seconds: float
    schedulers: list[str]
    structures: list[StructureKind]
    """That can be drawn here."""
    preset: PresetName
    """Of edits that name none."""
    limits: Limits


class Health(BaseModel):
    """Whether the server is well."""

    status: Literal["ok", "stopping", "failing"]
    queued: int
    running: int


class Problem(BaseModel):
    """An error."""

    error: str


def read_settings(text: str) -> Settings:
    """Settings from JSON.

    Raises:
        UserError: they are no JSON, or one of them is unknown, of another type or out of range.
    """
    try:
        return Settings.model_validate_json(text or "{}")
    except ValidationError as error:
        raise UserError(one_line(error.errors(), "settings")) from error


def one_line(errors: Iterable[Mapping[str, Any]], prefix: str = "") -> str:
    """The first of pydantic's errors, and where it is."""
    first = next(iter(errors))
    place = ".".join(str(part) for part in (prefix, *first["loc"]) if part not in ("", "body", "query", "path"))
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{place}: {message[:1].lower()}{message[1:]}" if place else message
