"""Models that take things away: OpenCV's fill, and LaMa from a TorchScript file of the user's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..canvas import Canvas
from ..crops import context_crop
from ..errors import ModelError
from ..harmonise import fill
from ..images import Box
from .messages import Kind, Told
from .painting import Made, OnStep, Pixels, Progress, Work, kept

if TYPE_CHECKING:
    import torch

RADIUS = 5  # pixels around each that Telea's method looks at, as in Lama Cleaner
LAMA_SIDE = 1024  # pixels a side of the square that LaMa sees, at most
LAMA_MULTIPLE = 8  # its network halves the sides three times


class Eraser:
    """Fills each region; a subclass says how."""

    kind: Kind = "erase"
    image_size: int | None = None
    steps = 1
    scheduler: str | None = None
    takes: Sequence[Told] = ()

    def network(self) -> None:
        """There is none whose calls are shared."""
        return None

    def fill(self, pixels: Pixels, mask: NDArray[np.bool_], box: Box) -> Pixels:
        """Fill a region: (H, W, 3) and (H, W) to a new (H, W, 3)."""
        raise NotImplementedError

    def edit(self, work: Work, on_step: OnStep) -> list[Made]:
        """See `painting.Model.edit`; all seeds give the same."""
        pixels: Pixels = np.asarray(work.source.convert("RGB"))
        boxes: Sequence[Box] = [context_crop(part.mask) for part in work.parts]
        for region, (part, box) in enumerate(zip(work.parts, boxes, strict=True)):
            pixels = self.fill(pixels, part.mask, box)
            on_step(Progress(region + 1, len(boxes), region, box))
        mask = np.logical_or.reduce([part.mask for part in work.parts])
        picture = kept(work.source, pixels, mask)
        return [Made(picture, seed, {}, boxes=boxes) for seed in work.settings.seeds]


class Telea(Eraser):
    """Telea's fast marching, see `harmonise.fill`."""

    def fill(self, pixels: Pixels, mask: NDArray[np.bool_], box: Box) -> Pixels:
        """See `Eraser.fill`; only the box is looked at, which is quicker in a large picture."""
        height, width = mask.shape
        left, top, right, bottom = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
        filled = pixels.copy()
        part, hole = pixels[top:bottom, left:right], mask[top:bottom, left:right]
        if not hole.all():  # of nothing known, nothing follows: it stays as it is
            filled[top:bottom, left:right] = fill(part, hole, RADIUS)
        return filled


class Lama(Eraser):
    """LaMa (arXiv 2109.07161) as a TorchScript file: picture (1, 3, H, W) in [0, 1] and mask (1, 1, H, W) to a picture.

    Args:
        path: of the file.
        device: to run it on.

    Raises:
        ModelError: it is no such file.
    """

    def __init__(self, path: Path, device: Any) -> None:
        import torch

        # TorchScript is deprecated for new models; the one that there is has no other form.
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
        try:
            self.script = torch.jit.load(str(path), map_location=device).eval()
        except (RuntimeError, OSError) as error:
            raise ModelError(f"cannot read {path.name}: it is no TorchScript file, or damaged") from error
        self.device = device

    def fill(self, pixels: Pixels, mask: NDArray[np.bool_], box: Box) -> Pixels:
        """See `Eraser.fill`."""
        import torch

        side = min(box[2] - box[0], LAMA_SIDE)
        canvas = Canvas(mask, box, max(side // LAMA_MULTIPLE, 1) * LAMA_MULTIPLE)
        x, hole = (tensor.to(self.device) for tensor in canvas.tensors(pixels))
        with torch.no_grad():
            painted: torch.Tensor = self.script((x + 1) / 2, hole)
        if painted.shape != x.shape:
            raise ModelError(f"the model gave a picture of shape {tuple(painted.shape)}, expected {tuple(x.shape)}")
        return canvas.paste(pixels, painted.float().cpu() * 2 - 1)
