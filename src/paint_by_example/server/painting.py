"""What a worker is given and gives back, whatever the model; and the models of this package's own kind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..crops import context_crop
from ..images import Box, tensor_image
from ..inputs import Blend
from ..record import KEY, File, Record
from ..structure import Structure
from .messages import Kind, Settings, Told

if TYPE_CHECKING:
    import torch

    from ..pipeline import PaintByExamplePipeline
    from ..sampling import Step

Pixels: TypeAlias = NDArray[np.uint8]


ASKED = "paint_by_example_settings"  # of the text chunk in results of models that write no record


class Cancelled(Exception):
    """Ends an edit from within."""


@dataclass(frozen=True)
class Part:
    """A region with its pictures loaded."""

    where: str | Box
    """The mask's file name, or the box."""
    mask: NDArray[np.bool_]
    """(H, W), True = repaint."""
    exemplars: list[Image.Image]
    names: list[str]
    """Of the exemplars' files."""
    weights: list[float] | None


@dataclass(frozen=True)
class Work:
    """An edit with its pictures loaded."""

    source: Image.Image
    """RGB or RGBA."""
    name: str
    """Of the source's file."""
    parts: list[Part]
    settings: Settings
    sketch: tuple[str, Image.Image] | None = None
    """Name and content of its file."""


@dataclass(frozen=True)
class Progress:
    """A step that was taken."""

    step: int
    steps: int
    """Of all regions together."""
    region: int
    box: Box
    """Of the square that is being painted, in pixels of the source."""
    pictures: Callable[[], list[Pixels]] | None = None
    """Makes a preview of the square for each candidate, (S, S, 3); costs time."""


@dataclass(frozen=True)
class Made:
    """A candidate."""

    picture: Image.Image
    seed: int
    info: dict[str, str]
    """For the PNG file; where a model has nothing of its own to say, the file tells what was asked of it."""
    record: dict[str, Any] | None = None
    flagged: bool | None = None
    boxes: Sequence[Box] = ()


OnStep: TypeAlias = Callable[[Progress], None]


class Model(Protocol):
    """A model in memory."""

    kind: Kind
    image_size: int | None
    """Side of the square that it paints, pixels; None for any."""
    steps: int
    """Unless it is told otherwise."""
    scheduler: str | None
    takes: Sequence[Told]
    """What of the source it can be told, or do with it."""

    def edit(self, work: Work, on_step: OnStep) -> list[Made]:
        """Do the work.

        Args:
            work: all there is to it.
            on_step: called after every step; what it raises ends the edit.

        Returns:
            A candidate for each seed.

        Raises:
            UserError: the work cannot be done as asked.
        """
        ...

    def network(self) -> tuple[torch.nn.Module, torch.Tensor] | None:
        """The U-Net whose calls may be shared, and a condition (1, 1, D) to time it with; None if there is none."""
        ...


class ExemplarModel:
    """Paints exemplars: what this package is about.

    Args:
        pipeline: loaded.
        name: what clients call it.
        whole: parts are not moved about between calls, so that several edits may use them at once.
        pose_models: see `Structure.models`.
    """

    kind: Kind = "exemplar"

    def __init__(
        self, pipeline: PaintByExamplePipeline, name: str, whole: bool = True, pose_models: Path | None = None
    ) -> None:
        self.pipeline, self.name, self.whole, self.pose_models = pipeline, name, whole, pose_models
        self.image_size: int | None = pipeline.image_size
        self.steps = pipeline.default_steps(pipeline.scheduler)
        self.scheduler: str | None = type(pipeline.scheduler).__name__
        learned: list[Told] = ["structure"] if pipeline.takes_structure else []
        if pipeline.source_encoder is not None and pipeline.source_encoder.config.context:
            learned.append("context")
        self.takes: Sequence[Told] = (*learned, "source_exemplar", "harmonise")

    def network(self) -> tuple[torch.nn.Module, torch.Tensor] | None:
        """See `Model.network`."""
        if not self.whole:
            return None
        unet = self.pipeline.unet
        return unet, self.pipeline.null_condition().detach().to(unet.device, unet.dtype)

    def edit(self, work: Work, on_step: OnStep) -> list[Made]:
        """See `Model.edit`."""
        asked = work.settings
        boxes = [context_crop(part.mask) for part in work.parts]

        def tell(step: Step) -> None:
            region = step.index * len(boxes) // step.total
            on_step(Progress(step.index + 1, step.total, region, boxes[region], lambda: self._preview(step)))

        settings: dict[str, Any] = {
            "guidance_scale": asked.guidance_scale,
            "steps": asked.steps,
            "scheduler": asked.scheduler,
            "preset": None if asked.preset == "none" else asked.preset,
        }
        edit = self.pipeline.edit(
            work.source,
            mask=[part.mask for part in work.parts],
            exemplar=[Blend(part.exemplars, part.weights) for part in work.parts],
            seed=asked.seeds,
            feather=asked.feather,
            strength=asked.strength,
            eta=asked.eta,
            guidance_rescale=asked.guidance_rescale,
            structure=structure_of(work, self.pose_models),
            structure_scale=asked.structure_scale,
            context=asked.context,
            source_exemplar=asked.source_exemplar,
            harmonise=asked.harmonise,
            on_step=tell,
            **{name: value for name, value in settings.items() if value is not None},
        )
        flagged: Sequence[bool | None] = edit.nsfw_content_detected or [None] * len(edit.images)
        made = []
        for picture, record, flag in zip(edit.images, edit.records, flagged, strict=True):
            named = self._named(record, work)
            info = {KEY: json.dumps(named)}
            made.append(Made(picture, record.seed, info, named, flag, edit.boxes))
        return made

    def _preview(self, step: Step) -> list[Pixels]:
        import torch

        with torch.no_grad():
            return [tensor_image(self.pipeline.decode_latent(z_0))[0] for z_0 in step.z_0.split(1)]

    def _named(self, record: Record, work: Work) -> dict[str, Any]:
        """The record with the client's names for everything, none of this machine's paths."""
        named = record.named(
            model=self.name,
            source=work.name,
            where=[part.where for part in work.parts],
            exemplars=[part.names for part in work.parts],
        )
        if (guide := named.structure) is not None:
            sketch, beside = guide.sketch, guide.controlnet
            if sketch is not None and work.sketch is not None:
                sketch = File(work.sketch[0], sketch.sha256)
            if beside is not None and Path(str(beside.path)).exists():
                beside = File(Path(str(beside.path)).resolve().name, beside.sha256)
            guide = dataclasses.replace(guide, sketch=sketch, models=None, controlnet=beside)
            named = dataclasses.replace(named, structure=guide)
        values = dataclasses.asdict(named)
        shown: dict[str, Any] = json.loads(json.dumps(values))
        return shown


def structure_of(work: Work, pose_models: Path | None) -> Structure | None:
    """What an edit asks to keep of the structure of what stands in its regions.

    Args:
        work: the edit.
        pose_models: see `Structure.models`.
    """
    kind = work.settings.structure
    if kind is None:
        return None
    sketch = None if work.sketch is None else work.sketch[1]
    return Structure(kind, sketch, pose_models if kind == "pose" else None)


def kept(source: Image.Image, pixels: Pixels, mask: NDArray[np.bool_]) -> Image.Image:
    """A result that is the source outside the mask, bit for bit, with its transparency and colour profile.

    Args:
        source: RGB or RGBA.
        pixels: (H, W, 3).
        mask: (H, W), True = repainted.
    """
    before = np.asarray(source.convert("RGB"))
    picture = Image.fromarray(np.where(mask[..., None], pixels, before))
    if source.mode == "RGBA":
        picture.putalpha(source.getchannel("A"))
    picture.info = dict(source.info)
    return picture


def asked_info(model: str, settings: Settings, seed: int) -> dict[str, str]:
    """What was asked of a model, for the PNG file of a candidate."""
    told = {"model": model, "seed": seed, **settings.model_dump(exclude={"model", "regions", "seeds"})}
    return {ASKED: json.dumps(told)}


def read_asked(path: Path) -> dict[str, Any] | None:
    """What `asked_info` put into a PNG file, or None if there is nothing of it that can be used."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            values = dict(json.loads(picture.info[ASKED]))
        seed = values.pop("seed")
        asked = Settings.model_validate({**values, "seeds": [seed]})
    except Exception:  # a damaged file may raise anything
        return None
    return {"seed": seed, **asked.model_dump(exclude={"regions", "seeds"})}


def save_path(folder: Path, stem: str, edit: str, index: int) -> Path:
    """A readable name for a result in ``--output-dir`` that no other result has."""
    return folder / f"{stem}-{edit[:12]}{edit[-4:]}-{index}.png"
