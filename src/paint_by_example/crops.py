"""The geometry of an edit: the square around the mask that is painted, and its way back into the photograph.

    context_crop -> crop_image, crop_mask -> resize, resize_mask -> (the model) -> paste_back

An edit paints that square at the model's resolution and pastes it back at the photograph's own. Masks, sizes, boxes and
arrays are as in `images`.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import MaskError
from .images import Box, Size

Pixel = TypeVar("Pixel", bound=np.generic)

CONTEXT = 0.75  # surroundings, as a share of the hole's longer side: the hole takes 1 / 1.75 = 57 % of the crop's side
MINIMUM_CROP = 128  # pixels: a smaller crop would show the model little but the blur of its own enlargement


# Boxes and crops


def parse_box(text: str) -> Box:
    """Reads a box from the command line.

    Args:
        text: "left,top,right,bottom" in pixels.

    Returns:
        The box as it was given; `box_mask` fits it to a picture.

    Raises:
        MaskError: The text is not four whole numbers.
    """
    try:
        left, top, right, bottom = (int(number) for number in text.split(","))
    except ValueError:
        raise MaskError(
            f"the box {text!r} is not four whole numbers;"
            " give left,top,right,bottom in pixels, for example 40,60,200,180"
        ) from None
    return left, top, right, bottom


def box_mask(box: Box, size: Size) -> NDArray[np.bool_]:
    """Makes the mask that repaints a box.

    Args:
        box: Left, top, right, bottom in pixels; what lies outside the picture is cut off.
        size: Width and height of the source.

    Returns:
        An array (H, W), True = repaint, with at least one True.

    Raises:
        MaskError: The box is empty or reversed, or lies outside the picture.
    """
    text = ",".join(map(str, box))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise MaskError(f"the box {text} is empty; right must be greater than left, and bottom greater than top")
    left, top, right, bottom = _clip(box, size)
    if left >= right or top >= bottom:
        raise MaskError(f"the box {text} lies outside the source, which is {size[0]} x {size[1]}; move it inside")
    mask = np.zeros((size[1], size[0]), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def mask_bounds(mask: NDArray[np.bool_]) -> Box:
    """Finds the smallest box around everything that is repainted.

    Args:
        mask: An array (H, W), True = repaint.

    Returns:
        Left, top, right, bottom; right and bottom exclusive.

    Raises:
        MaskError: The mask selects nothing.
    """
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if columns.size == 0:
        raise MaskError("the mask selects nothing; white marks what is repainted")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def context_crop(mask: NDArray[np.bool_], context: float = CONTEXT, minimum: int = MINIMUM_CROP) -> Box:
    """Chooses the square that is shown to the model: the mask and some of its surroundings.

    The square is centred on the mask's bounds, then shifted to lie inside the picture. Where a side of the picture is
    shorter than the square, the square covers that side and reaches outside, with negative coordinates if need be;
    `crop_image` fills what lies there.

    Args:
        mask: An array (H, W), True = repaint.
        context: How much larger than the longer side of the mask's bounds the square is, at least 0: 0.75 is 75 %.
        minimum: Smallest side of the square, in pixels; a smaller picture is taken whole.

    Returns:
        A square that contains the mask.

    Raises:
        MaskError: The mask selects nothing.
    """
    left, top, right, bottom = mask_bounds(mask)
    height, width = (int(length) for length in mask.shape)
    side = max(math.ceil(max(right - left, bottom - top) * (1 + context)), minimum)
    side = min(side, max(width, height))  # more would show the model only what is made up around the picture

    def start(first: int, last: int, length: int) -> int:
        low, high = sorted((0, length - side))  # either inside the picture, or covering all of it
        return min(max((first + last - side) // 2, low), high)

    x, y = start(left, right, width), start(top, bottom, height)
    return x, y, x + side, y + side


def crop_image(image: NDArray[Pixel], crop: Box) -> NDArray[Pixel]:
    """Cuts a box out of a picture; what lies outside the picture repeats the nearest pixel of its border.

    Args:
        image: An array (H, W) or (H, W, C).
        crop: May reach outside the picture.

    Returns:
        A new array of the crop's height and width.
    """
    left, top, right, bottom = crop
    rows = np.arange(top, bottom).clip(0, image.shape[0] - 1)
    columns = np.arange(left, right).clip(0, image.shape[1] - 1)
    return image.take(rows, axis=0).take(columns, axis=1)


def crop_mask(mask: NDArray[np.bool_], crop: Box) -> NDArray[np.bool_]:
    """Cuts a box out of a mask, in step with `crop_image`: what repeats a repainted pixel is repainted too.

    Otherwise a hole at the picture's edge would show the model smeared copies of what stood in it.

    Args:
        mask: An array (H, W), True = repaint.
        crop: May reach outside the picture.

    Returns:
        A new array of the crop's height and width.
    """
    return crop_image(mask, crop)


def _clip(box: Box, size: Size) -> Box:
    """Cuts off what lies outside the picture; of a box wholly outside, an empty one remains."""
    left, right = (min(max(x, 0), size[0]) for x in box[::2])
    top, bottom = (min(max(y, 0), size[1]) for y in box[1::2])
    return left, top, right, bottom


# Resizing


def resize(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resizes a picture: averages over areas to shrink (no aliasing), cubic to enlarge, each side for itself.

    Args:
        image: An array (H, W) or (H, W, 3), [0, 255].
        size: Width and height of the result.

    Returns:
        An array of that size; the given one itself if it has the size already.
    """
    smaller = min(image.shape[1], size[0]), min(image.shape[0], size[1])
    return _resample(_resample(image, smaller, cv2.INTER_AREA), size, cv2.INTER_CUBIC)


def resize_mask(mask: NDArray[np.bool_], size: Size) -> NDArray[np.bool_]:
    """Resizes a mask so that a pixel is repainted where any part of it was: the thinnest stroke survives.

    Args:
        mask: An array (H, W), True = repaint.
        size: Width and height of the result.

    Returns:
        An array of that size, True = repaint.
    """
    covered = _any_row(_any_row(mask, min(mask.shape[0], size[1])).T, min(mask.shape[1], size[0])).T
    return _resample(covered.astype(np.uint8), size, cv2.INTER_NEAREST_EXACT) > 0


def _any_row(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Brings a mask to fewer rows, or as many: each is True where one of the rows is that it covers a part of."""
    rows = np.arange(count)
    first, last = rows * len(mask) // count, ((rows + 1) * len(mask) - 1) // count
    covered = mask[first]
    for step in range(1, int((last - first).max()) + 1):
        covered |= mask[np.minimum(first + step, last)]
    return covered


def _resample(image: NDArray[Any], size: Size, interpolation: int) -> NDArray[Any]:
    return image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=interpolation)


# Pasting back


def paste_back(
    source: NDArray[np.uint8], painted: NDArray[np.uint8], mask: NDArray[np.bool_], crop: Box, feather: int = 0
) -> NDArray[np.uint8]:
    """Puts the painted crop into the source where the mask says so; all other pixels stay bit-identical.

    Args:
        source: An array (H, W, 3), [0, 255].
        painted: The crop as the model painted it, an array (S, S, 3), [0, 255].
        mask: An array (H, W), True = repaint.
        crop: Where `painted` lies in the source; contains the mask.
        feather: Width in pixels of the soft edge, which lies inside the mask. A part of the mask that is too thin for
            it gets a narrower one, so that its middle is painted in full. Where the mask touches the picture's edge
            there is nothing to blend with, and no soft edge.

    Returns:
        A new array (H, W, 3), [0, 255].

    Raises:
        ValueError: The mask reaches outside the crop.
    """
    left, top, right, bottom = crop
    # One pixel more on each side: where the mask fills the crop, the soft edge starts at the crop's edge.
    x0, y0, x1, y1 = _clip((left - 1, top - 1, right + 1, bottom + 1), (mask.shape[1], mask.shape[0]))
    result = source.copy()
    if not mask.any():
        return result
    bounds = mask_bounds(mask)
    if bounds[0] < left or bounds[1] < top or bounds[2] > right or bounds[3] > bottom:
        raise ValueError(f"the mask, within {bounds}, reaches outside the crop {crop}")
    region, selected = result[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    patch = crop_image(resize(painted, (right - left, bottom - top)), (x0 - left, y0 - top, x1 - left, y1 - top))
    old, new = region[selected].astype(np.float32), patch[selected]
    region[selected] = np.rint(old + _soft_edge(selected, feather)[selected, None] * (new - old))
    return result


def _soft_edge(mask: NDArray[np.bool_], feather: int) -> NDArray[np.float32]:
    """How much of the new picture each masked pixel shows: (H, W), rising from the mask's edge inwards to 1."""
    if feather <= 0:
        return mask.astype(np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # 1 at the edge
    # The largest distance nearby is half the width of the mask here: a thin stroke is scaled by that.
    nearby = cv2.dilate(distance, np.ones((2 * feather + 1, 2 * feather + 1), np.uint8))
    weight: NDArray[np.float32] = np.minimum(distance / np.clip(nearby, 1, feather + 1), 1, dtype=np.float32)
    return weight
