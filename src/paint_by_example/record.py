"""What an edit was made of and with, as it stands in the PNG file of its result, so that it can be made again.

Pictures and the model are named by path and by what is in them: a path says where to look, a hash whether it is still
that. Paths are relative to the result's folder, so that a folder with all of them may be moved.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .crops import box_mask
from .errors import PictureError
from .fingerprint import HASH_LENGTH
from .images import Box, Picture, load_exemplar, load_image, load_mask
from .structure import Structure, StructureKind

KEY = "paint_by_example"  # of the text chunk


@dataclass(frozen=True)
class File:
    """A picture or a model."""

    path: str | None
    """Where it was; None for what was handed over in memory. Of a model also a name: embedded, or one on the hub."""
    sha256: str
    """Of its content, the first digits: pixels of pictures, however stored; weights and schedule of models."""


@dataclass(frozen=True)
class Region:
    """A part of the source that was repainted."""

    exemplars: tuple[tuple[File, float], ...]
    """Each with its share of the condition."""
    mask: File | None = None
    box: Box | None = None
    """The one or the other; pixels: left, top, right, bottom."""


@dataclass(frozen=True)
class Guide:
    """What an edit was told of the structure of what stood there."""

    kind: StructureKind
    scale: float
    """μ."""
    sketch: File | None = None
    models: str | None = None
    """Where the networks for poses were looked for, if somewhere else than by default."""
    controlnet: File | None = None
    """The network that was told, if not a part of the model."""


@dataclass(frozen=True)
class Record:
    """All that a result depends on but the machine."""

    version: str
    """Of this package."""
    model: File
    source: File
    regions: tuple[Region, ...]
    """In the order in which they were painted."""
    seed: int
    guidance_scale: float
    steps: int
    scheduler: str | None
    """Name of the solver that was asked for; None is the model's own."""
    eta: float
    strength: float
    guidance_rescale: float
    feather: int
    compat: str | None
    preset: str | None = None
    """Of speed, that was asked for; what it stands for is in the other fields."""
    backend: str = "torch"
    """That ran the U-Net."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Shares of the noise levels between which there was guidance."""
    structure: Guide | None = None
    context: bool = False
    """Whether regions looked at their surroundings."""
    source_exemplar: float = 0.0
    """Share of the condition that what stood in the region had."""
    harmonise: str | None = None
    """How results were fitted to their surroundings."""

    def settings(self) -> dict[str, Any]:
        """What `edit` is told beside the pictures, by its names."""
        names = ("seed", "guidance_scale", "steps", "scheduler", "eta", "strength", "guidance_rescale", "feather")
        speed = ("preset", "backend", "guidance_interval")
        source = ("context", "source_exemplar", "harmonise")
        settings = {name: getattr(self, name) for name in (*names, *speed, *source)}
        if (guide := self.structure) is not None:
            sketch = None
            if guide.sketch is not None:
                path = recorded_path(guide.sketch, "sketch", "give --structure")
                sketch = load_image(path).convert("RGB")
                check_unchanged(guide.sketch, sketch, "sketch", "give --structure")
            drawing = None if sketch is None else path
            settings |= {"structure": Structure(guide.kind, drawing, guide.models), "structure_scale": guide.scale}
        return settings

    def named(
        self,
        *,
        model: str | None = None,
        source: str | os.PathLike[str] | None = None,
        where: Sequence[str | os.PathLike[str] | Box] | None = None,
        exemplars: Sequence[Sequence[str | os.PathLike[str]]] | None = None,
    ) -> Record:
        """With paths for what was handed over in memory.

        Args:
            model: its path or name.
            source: its path.
            where: of each region its mask's path, or its box.
            exemplars: of each region its exemplars' paths.
        """
        regions = list(self.regions)
        for index, place in enumerate(where or ()):
            if isinstance(place, tuple):
                regions[index] = dataclasses.replace(regions[index], mask=None, box=place)
            elif (mask := regions[index].mask) is not None:
                regions[index] = dataclasses.replace(regions[index], mask=File(os.fspath(place), mask.sha256))
        for index, paths in enumerate(exemplars or ()):
            pairs = zip(paths, regions[index].exemplars, strict=True)
            named = tuple((File(os.fspath(path), file.sha256), share) for path, (file, share) in pairs)
            regions[index] = dataclasses.replace(regions[index], exemplars=named)
        return dataclasses.replace(
            self,
            model=self.model if model is None else File(model, self.model.sha256),
            source=self.source if source is None else File(os.fspath(source), self.source.sha256),
            regions=tuple(regions),
        )

    def info(self, folder: Path) -> dict[str, str]:
        """The text chunk for a file in a folder, as `images.save_image` takes it."""
        return {KEY: json.dumps(dataclasses.asdict(self._with_paths(lambda path: _relative(path, folder))))}

    def _with_paths(self, change: Any) -> Record:
        def moved(file: File) -> File:
            return File(None if file.path is None else change(file.path), file.sha256)

        regions = tuple(
            Region(
                tuple((moved(file), share) for file, share in region.exemplars),
                None if region.mask is None else moved(region.mask),
                region.box,
            )
            for region in self.regions
        )
        guide = self.structure
        if guide is not None:
            guide = dataclasses.replace(
                guide,
                sketch=None if guide.sketch is None else moved(guide.sketch),
                models=None if guide.models is None else change(guide.models),
                controlnet=None if guide.controlnet is None else moved(guide.controlnet),
            )
        return dataclasses.replace(
            self, model=moved(self.model), source=moved(self.source), regions=regions, structure=guide
        )


def _relative(path: str, folder: Path) -> str:
    """A path relative to a folder; a name, such as a model's on the hub, as it is."""
    if not os.path.exists(path):  # False too for what is no path at all, which Path.exists raises over
        return path
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive, on Windows
        return str(Path(path).resolve())


def read_record(path: str | os.PathLike[str]) -> Record:
    """The record of a result, with paths as they are to be opened from here.

    Raises:
        PictureError: There is no such picture, or it carries no record that can be read.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            text = picture.info.get(KEY)
    except Exception as error:  # as for every picture, a damaged file may raise anything
        problem = error.strerror if isinstance(error, OSError) and error.strerror else "it is no PNG file"
        raise PictureError(f"cannot read how {path} was made: {problem}") from error
    if not isinstance(text, str):
        raise PictureError(f"cannot read how {path} was made: it says nothing of that; only PNG files from an edit do")
    try:
        record = _parse(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise PictureError(f"cannot read how {path} was made: its record is damaged ({error!r})") from error

    def located(name: str) -> str:
        place = Path(name) if os.path.isabs(name) else path.parent / name
        return str(place) if name != "embedded" and os.path.exists(place) else name

    # What is missing keeps its relative path: for the message, and because a name on the hub looks like one.
    return record._with_paths(located)


def _parse(values: dict[str, Any]) -> Record:
    def file(value: dict[str, Any]) -> File:
        if not (value["path"] is None or isinstance(value["path"], str)) or not isinstance(value["sha256"], str):
            raise TypeError(value)
        return File(value["path"], value["sha256"])

    def region(value: dict[str, Any]) -> Region:
        mask, box = value["mask"], value["box"]
        exemplars = tuple((file(one), float(share)) for one, share in value["exemplars"])
        if (mask is None) == (box is None) or not exemplars:
            raise ValueError(value)
        if mask is not None:
            return Region(exemplars, mask=file(mask))
        left, top, right, bottom = (int(side) for side in box)
        return Region(exemplars, box=(left, top, right, bottom))

    def guide(value: dict[str, Any]) -> Guide:
        sketch, controlnet = (None if value[name] is None else file(value[name]) for name in ("sketch", "controlnet"))
        models = None if value["models"] is None else str(value["models"])
        Structure(value["kind"], None if sketch is None else sketch.path or "", models)  # as it would be given again
        return Guide(value["kind"], float(value["scale"]), sketch, models, controlnet)

    def number(name: str) -> float:
        if not math.isfinite(value := float(values[name])):
            raise ValueError(name)
        return value

    def text(name: str) -> str | None:
        return None if values[name] is None else str(values[name])

    regions = tuple(region(value) for value in values["regions"])
    if not regions:
        raise ValueError("regions")
    low, high = values.get("guidance_interval", (0.0, 1.0))
    return Record(
        version=str(values["version"]),
        model=file(values["model"]),
        source=file(values["source"]),
        regions=regions,
        seed=int(values["seed"]),
        guidance_scale=number("guidance_scale"),
        steps=int(values["steps"]),
        scheduler=text("scheduler"),
        eta=number("eta"),
        strength=number("strength"),
        guidance_rescale=number("guidance_rescale"),
        feather=int(values["feather"]),
        compat=text("compat"),
        preset=None
        if values.get("preset") is None
        else str(values["preset"]),  # older files have none of these and those below
        backend=str(values.get("backend", "torch")),
        guidance_interval=(float(low), float(high)),
        structure=None if values.get("structure") is None else guide(values["structure"]),
        context=bool(values.get("context", False)),
        source_exemplar=float(values.get("source_exemplar", 0.0)),
        harmonise=None if values.get("harmonise") is None else str(values["harmonise"]),
    )


# --- what is in a file ------------------------------------------------------------------------------------------------


def picture_file(given: Picture, content: Image.Image | NDArray[np.bool_]) -> File:
    """The entry of a picture as it was given, and as it was loaded."""
    return File(os.fspath(given) if isinstance(given, str | os.PathLike) else None, content_hash(content))


def content_hash(content: Image.Image | NDArray[np.bool_]) -> str:
    """Hash of a picture's or mask's pixels, so that the same picture in another format counts as the same."""
    if isinstance(content, Image.Image):
        head, body = f"{content.mode} {content.size}", content.tobytes()
    else:
        head, body = f"mask {content.shape}", np.packbits(content).tobytes()
    return hashlib.sha256(head.encode() + body).hexdigest()[:HASH_LENGTH]


def check_unchanged(file: File, content: Image.Image | NDArray[np.bool_], what: str, instead: str) -> None:
    """Compare what was loaded again with what it was.

    Args:
        file: the entry.
        content: what was loaded.
        what: its role, for the message.
        instead: what to do about it, for the message.

    Raises:
        PictureError: it is not the same.
    """
    if content_hash(content) != file.sha256:
        raise PictureError(
            f"the {what} {file.path} of the recorded edit has changed since; {instead} to use it nevertheless"
        )


def recorded_path(file: File, what: str, instead: str) -> str:
    """Where an entry's file is.

    Raises:
        PictureError: it was handed over in memory and has no path, or is gone.
    """
    if file.path is None:
        raise PictureError(f"the {what} of the recorded edit was not a file; {instead}")
    if not os.path.exists(file.path):
        raise PictureError(f"the {what} {file.path} of the recorded edit is gone; {instead}")
    return file.path


# --- making it again --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GatheredExemplar:
    """The pictures of one region's exemplar."""

    paths: list[str]
    pictures: list[Image.Image]
    shares: list[float]


@dataclass(frozen=True)
class Gathered:
    """What an edit is made of, loaded."""

    path: str
    """Of the source."""
    source: Image.Image
    where: list[str | os.PathLike[str] | Box]
    """Of each region the mask's path, or the box."""
    masks: list[NDArray[np.bool_]]
    """Of each region what is repainted, (H, W)."""
    exemplars: list[GatheredExemplar]
    """Of each region, or one for all."""


def gather(
    record: Record | None,
    source: str | os.PathLike[str] | None = None,
    where: Sequence[str | os.PathLike[str] | Box] = (),
    exemplars: Sequence[str | os.PathLike[str]] = (),
) -> Gathered:
    """Load the pictures of an edit: those that are named, and for what is left out, those of a record.

    Args:
        record: of an edit to make again; without one, all must be named.
        source: its path.
        where: a mask's path or a box for each region.
        exemplars: paths, one for each region or one for all.

    Raises:
        UserError: one cannot be used, or is not what it was when it was recorded.
    """
    if source is None:
        assert record is not None
        path = recorded_path(record.source, "source", "give SOURCE")
        picture = load_image(path)
        check_unchanged(record.source, picture, "source", "give SOURCE")
    else:
        path = os.fspath(source)
        picture = load_image(path)

    masks, places = [], list(where)
    for place in where:
        masks.append(box_mask(place, picture.size) if isinstance(place, tuple) else load_mask(place, picture.size))
    if not where:
        assert record is not None
        for region in record.regions:
            if region.box is not None:
                places.append(region.box)
                masks.append(box_mask(region.box, picture.size))
            elif region.mask is not None:
                mask = recorded_path(region.mask, "mask", "give --mask or --box")
                places.append(mask)
                masks.append(load_mask(mask, picture.size))
                check_unchanged(region.mask, masks[-1], "mask", "give --mask")

    gathered = [GatheredExemplar([os.fspath(one)], [load_exemplar(one)], [1.0]) for one in exemplars]
    if not exemplars:
        assert record is not None
        for region in record.regions:
            again = GatheredExemplar([], [], [])
            for file, share in region.exemplars:
                again.paths.append(recorded_path(file, "exemplar", "give --exemplar"))
                again.pictures.append(load_exemplar(again.paths[-1]))
                again.shares.append(share)
                check_unchanged(file, again.pictures[-1], "exemplar", "give --exemplar")
            gathered.append(again)
    return Gathered(path, picture, places, masks, gathered)
