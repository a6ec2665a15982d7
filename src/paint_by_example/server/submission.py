"""An edit as it comes in: its files kept and checked, its regions settled, before it may wait in the queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from ..crops import box_mask
from ..errors import MaskError, PictureError, UserError
from ..images import Size
from ..inputs import Blend
from .messages import MAX_REGIONS, Kind, Model, Region, Settings, Told
from .painting import Part, Work
from .uploads import check_picture, file_name, read_exemplar, read_mask, read_source, save_upload

T = TypeVar("T")


class Submission:
    """The files of one edit.

    Args:
        folder: where they are kept; made here.
        pixels: of a picture, at most.
    """

    def __init__(self, folder: Path, pixels: int) -> None:
        self.folder, self.pixels = folder, pixels
        self.source_name = ""
        self.masks: list[tuple[Path, str]] = []
        self.exemplars: list[tuple[Path, str]] = []
        self.sketches: list[tuple[Path, str]] = []
        self.size: Size = (0, 0)

    @property
    def stem(self) -> str:
        """The source's name without its suffix."""
        return Path(self.source_name).stem

    def check(
        self,
        source: UploadFile,
        masks: Sequence[UploadFile],
        exemplars: Sequence[UploadFile],
        sketch: UploadFile | None,
        settings: Settings,
        model: Model,
    ) -> Callable[[], Work]:
        """Keep the files and look at all there is, so that nothing of the user's making goes wrong later.

        Args:
            source: the source's file.
            masks: the masks' files.
            exemplars: the exemplars' files.
            sketch: a drawing of what to keep.
            settings: the rest of the edit.
            model: what is known of it.

        Returns:
            What decodes the pictures once it is the edit's turn.

        Raises:
            UserError: something cannot be used.
        """
        self._keep_all(source, masks, exemplars, sketch)
        regions = self._regions(settings)
        check_kind(model.kind, settings, regions)
        check_told(model, settings)
        self._check_sketch(settings)
        read_source(self.folder / "source", self.source_name)
        for path, name in self.exemplars:
            read_exemplar(path, name)
        for path, name in self.masks:
            read_mask(path, name, self.size)
        for region in regions:
            if region.box is not None:
                box_mask(region.box, self.size)
            if region.exemplars:
                Blend([""] * len(region.exemplars), region.weights)  # says what is wrong with the weights
        return partial(self._load, settings, regions)

    def look(
        self, source: UploadFile, masks: Sequence[UploadFile], sketch: UploadFile | None, settings: Settings
    ) -> Work:
        """What can be drawn of an edit before there are exemplars; see `check`.

        Raises:
            UserError: something cannot be used.
        """
        self._keep_all(source, masks, (), sketch)
        self._check_sketch(settings)
        regions = [region.model_copy(update={"exemplars": None}) for region in settings.regions or ()]
        settings = settings.model_copy(update={"regions": regions or None})
        return self._load(settings, self._regions(settings))

    def _keep_all(
        self,
        source: UploadFile,
        masks: Sequence[UploadFile],
        exemplars: Sequence[UploadFile],
        sketch: UploadFile | None,
    ) -> None:
        self.folder.mkdir(parents=True)
        self.source_name = file_name(source.filename, "source")
        place = self.folder / "source"
        save_upload(source.file, place)
        self.size = check_picture(place, "source", self.source_name, self.pixels)
        self.masks = self._keep(masks, "mask")
        self.exemplars = self._keep(exemplars, "exemplar")
        self.sketches = self._keep([] if sketch is None else [sketch], "sketch")

    def _check_sketch(self, settings: Settings) -> None:
        if settings.structure == "sketch" and not self.sketches:
            raise PictureError("the structure sketch needs a drawing: send it as the part sketch")
        for path, name in self.sketches:
            if settings.structure != "sketch":
                raise UserError("a sketch was sent, which goes with the structure sketch only; leave it out")
            size = read_source(path, name).size
            if size != self.size:
                raise PictureError(
                    f"the sketch {name} is {size[0]} x {size[1]} and the source {self.size[0]} x {self.size[1]};"
                    " make them the same size"
                )

    def _keep(self, files: Sequence[UploadFile], what: str) -> list[tuple[Path, str]]:
        kept = []
        for number, file in enumerate(files):
            path, name = self.folder / f"{what}-{number}", file_name(file.filename, f"{what}-{number}")
            save_upload(file.file, path)
            check_picture(path, what, name, self.pixels)
            kept.append((path, name))
        return kept

    def _regions(self, settings: Settings) -> list[Region]:
        """The regions with all that was left out."""
        regions = settings.regions or [Region(mask=number) for number in range(len(self.masks))]
        if not regions:
            raise MaskError("neither a mask nor a box was given; send a mask, or regions with boxes")
        if len(regions) > MAX_REGIONS:
            raise UserError(f"there are {len(regions)} regions; {MAX_REGIONS} are the most")
        settled = []
        for number, region in enumerate(regions):
            if region.mask is not None:
                _pick(self.masks, region.mask, "mask")
            chosen = region.exemplars
            if chosen is None and self.exemplars:
                chosen = [0 if len(self.exemplars) == 1 else number]
            for one in chosen or ():
                _pick(self.exemplars, one, "exemplar")
            settled.append(region.model_copy(update={"exemplars": chosen}))
        return settled

    def _selected(self, region: Region) -> NDArray[np.bool_]:
        if region.box is not None:
            return box_mask(region.box, self.size)
        path, name = _pick(self.masks, region.mask or 0, "mask")
        return read_mask(path, name, self.size)

    def _load(self, settings: Settings, regions: Sequence[Region]) -> Work:
        source = read_source(self.folder / "source", self.source_name)
        parts = []
        for region in regions:
            chosen = [_pick(self.exemplars, one, "exemplar") for one in region.exemplars or ()]
            where: Any = region.box if region.box is not None else _pick(self.masks, region.mask or 0, "mask")[1]
            parts.append(
                Part(
                    where=where,
                    mask=self._selected(region),
                    exemplars=[read_exemplar(path, name) for path, name in chosen],
                    names=[name for _, name in chosen],
                    weights=region.weights,
                )
            )
        sketch = [(name, read_source(path, name)) for path, name in self.sketches]
        return Work(source, self.source_name, parts, settings, sketch[0] if sketch else None)


def check_kind(kind: Kind, settings: Settings, regions: Sequence[Region]) -> None:
    """Say what an edit brings or lacks that does not go with a kind of model.

    Raises:
        UserError: something does not.
    """
    shown = [bool(region.exemplars) for region in regions]
    prompt = bool(settings.prompt or settings.negative_prompt)
    if kind == "exemplar":
        if prompt:
            raise UserError("this model is shown an exemplar and takes no prompt; leave it out")
        if not all(shown):
            raise UserError("an exemplar is missing: send one for all regions, or one for each")
        return
    if settings.feather:
        raise UserError("feather is for models that are shown an exemplar; leave it out")
    if settings.preset not in (None, "none"):
        raise UserError("presets are for models that are shown an exemplar; leave it out")
    if any(shown):
        raise UserError("this model takes no exemplars; leave them out, or choose a model of kind exemplar")
    if kind == "erase" and prompt:
        raise UserError("this model fills regions from what is around them and takes no prompt; leave it out")
    if kind != "erase" and not settings.prompt:
        raise UserError("this model paints what a prompt says; send one")


def check_told(model: Model, settings: Settings) -> None:
    """Say what an edit wants to keep of what stood there and the model cannot.

    Raises:
        UserError: there is something.
    """
    asked: dict[Told, object] = {
        "structure": settings.structure,
        "context": settings.context,
        "source_exemplar": settings.source_exemplar,
        "harmonise": settings.harmonise,
    }
    for name, value in asked.items():
        if value and model.takes is not None and name not in model.takes:
            raise UserError(f"the model {model.name} takes no {name}; leave it out, or choose one whose takes names it")


def _pick(files: Sequence[T], number: int, what: str) -> T:
    if number >= len(files):
        counted = f"{len(files)} were sent, numbered from 0 on" if files else "none was sent"
        raise PictureError(f"there is no {what} {number}: {counted}")
    return files[number]
