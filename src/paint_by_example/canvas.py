"""The square around a region: what is cut out of a picture to be painted, pasted back, or drawn the structure of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from torch import Tensor

from .crops import context_crop, crop_image, crop_mask, mask_bounds, paste_back, resize, resize_mask
from .errors import PictureError, UserError
from .harmonise import HarmoniseName, harmonise
from .images import Box, image_tensor, load_image, load_mask, mask_tensor, tensor_image
from .inputs import as_list, common_count, repeated
from .pose import draw_people, find_people
from .structure import Structure, edges, sketch, soft_edges


@dataclass(frozen=True)
class Canvas:
    """The square of a picture that is painted, at the model's resolution."""

    mask: NDArray[np.bool_]
    """Of the whole picture, (H, W), True = repaint."""
    crop: Box
    """Where the square lies in the picture; it may reach outside."""
    size: int
    """Its side as the model paints it, pixels."""

    def tensors(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """The square of a picture (H, W, 3) and of its mask: (1, 3, S, S) in [-1, 1] and (1, 1, S, S) in {0, 1}."""
        size = (self.size, self.size)
        x = image_tensor(resize(crop_image(pixels, self.crop), size))
        return x, mask_tensor(resize_mask(crop_mask(self.mask, self.crop), size))

    def paste(
        self, pixels: NDArray[np.uint8], painted: Tensor, feather: int = 0, fit: HarmoniseName | None = None
    ) -> NDArray[np.uint8]:
        """Put the painted square (1, 3, S, S) into a picture: a new (H, W, 3), the same outside the mask."""
        (square,) = tensor_image(painted)
        if fit is not None:  # at the picture's own resolution, and before the edge is made soft
            pasted = paste_back(pixels, square, self.mask, self.crop)
            before, after = crop_image(pixels, self.crop), crop_image(pasted, self.crop)
            square = harmonise(fit, before, after, crop_mask(self.mask, self.crop))
        return paste_back(pixels, square, self.mask, self.crop, feather)

    def hole(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What stands in the smallest box around the mask, (h, w, 3)."""
        return crop_image(pixels, mask_bounds(self.mask))

    def structure(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The square of a drawing (H, W, 3), as the model sees it: (S, S, 3)."""
        return resize(crop_image(drawn, self.crop), (self.size, self.size))


def padded_canvases(images: object, masks: object, padding: int, size: int) -> list[tuple[NDArray[np.uint8], Canvas]]:
    """Pictures and the squares around their masks, for ``padding_mask_crop``.

    Args:
        images: sources, one or several.
        masks: of the same number, or one of them.
        padding: pixels around the mask.
        size: side of the square as it is painted.

    Returns:
        Of each the picture, (H, W, 3), and the square.

    Raises:
        UserError: the padding is negative, or a picture is a tensor.
    """
    if padding < 0:
        raise UserError(f"padding_mask_crop must be at least 0 pixels, got {padding}")
    sources, selections = as_list(images), as_list(masks)
    if any(isinstance(one, Tensor) for one in (*sources, *selections)):
        raise PictureError("padding_mask_crop keeps pixels as they are and needs pictures, not tensors")
    count = common_count(sources=len(sources), masks=len(selections))
    pictures = [load_image(source).convert("RGB") for source in sources]
    canvases = []
    for picture, one in zip(repeated(pictures, count), repeated(selections, count), strict=True):
        selected = load_mask(one, picture.size)
        left, top, right, bottom = mask_bounds(selected)
        crop = context_crop(selected, context=0, minimum=max(right - left, bottom - top) + 2 * padding)
        canvases.append((np.asarray(picture), Canvas(selected, crop, size)))
    return canvases


def draw_structure(
    structure: Structure, picture: PIL.Image.Image, canvases: Sequence[Canvas]
) -> list[NDArray[np.uint8]]:
    """The map of each square, (S, S, 3).

    Raises:
        UserError: a sketch is not of the picture's size, or the networks for poses are not there.
    """
    pixels = np.asarray(picture.convert("RGB"))
    if structure.kind == "sketch":
        assert structure.sketch is not None
        drawing = load_image(structure.sketch).convert("RGB")
        if drawing.size != picture.size:
            raise PictureError(
                f"the sketch is {drawing.width} x {drawing.height} and the source {picture.width} x {picture.height};"
                " make them the same size"
            )
        drawn = sketch(np.asarray(drawing))
        return [canvas.structure(drawn) for canvas in canvases]
    if structure.kind == "pose":
        people = find_people(pixels, structure.models)
        placed = [
            [one.within(*canvas.crop[:2], canvas.size / (canvas.crop[2] - canvas.crop[0])) for one in people]
            for canvas in canvases
        ]
        return [draw_people(some, (canvas.size,) * 2) for some, canvas in zip(placed, canvases, strict=True)]
    draw = edges if structure.kind == "edges" else soft_edges
    return [draw(canvas.structure(pixels)) for canvas in canvases]
