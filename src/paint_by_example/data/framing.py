"""Where the source is cut from a picture: squares around a box, and in what size the picture is to be decoded for them.

All of it is chosen from the picture's size alone, before it is decoded. Boxes and sizes are as in `images`.
"""

from __future__ import annotations

import math

import numpy as np

from ..images import IMAGE_SIZE, Box, Size
from .masks import JITTER

ZOOM = 0.6  # up to this share of the free margin around the box is shaved off (authors' code)


def grow(box: Box, margin: int, size: Size) -> Box:
    """Move each side of a box outwards, but not out of the picture."""
    left, top, right, bottom = box
    return max(left - margin, 0), max(top - margin, 0), min(right + margin, size[0]), min(bottom + margin, size[1])


def base_side(box: Box, size: Size) -> int:
    """The side of the square that is cropped for a box, before it is zoomed.

    It is the picture's shorter side, so that as much as can be is seen of it, or the box's longer one if that is more.
    """
    return max(min(size), box[2] - box[0], box[3] - box[1])


def jitter_room(extended: Box, size: Size) -> Box:
    """The box that a mask drawn around ``extended`` stays in, wherever its points move, and whatever the crop's zoom.

    With a margin m, the crop's side is at most s + 2 m, so a point moves by at most J (s + 2 m) / 512 pixels of the
    picture; that is no more than m from m = J s / (512 - 2 J) on.
    """
    side = base_side(extended, size)
    # a polygon's edge is drawn on the pixel it runs through: one more
    return grow(extended, math.ceil(JITTER * side / (IMAGE_SIZE - 2 * JITTER)) + 1, size)


def square_crop(rng: np.random.Generator, box: Box, size: Size) -> Box:
    """Choose a square that contains a box: as large as the picture allows, anywhere, then zoomed towards the box.

    Args:
        rng: source of randomness.
        box: inside the picture.
        size: (width, height) of the picture.

    Returns:
        A square inside the picture, if one holds the box. Otherwise one as long as the box, which covers the picture's
        shorter side and reaches beyond it.
    """
    left, top, right, bottom = box
    side = base_side(box, size)

    def start(first: int, last: int, length: int) -> int:
        low, high = sorted((0, length - side))  # either inside the picture, or covering all of it
        return int(rng.integers(max(last - side, low), min(first, high) + 1))

    x, y = start(left, right, size[0]), start(top, bottom, size[1])
    free = min(left - x, top - y, x + side - right, y + side - bottom)
    shaved = int(rng.integers(int(ZOOM * free) + 1))
    return x + shaved, y + shaved, x + side - shaved, y + side - shaved


def squashing_crop(rng: np.random.Generator, extended: Box, size: Size) -> Box:
    """The crop that the authors' code takes: a square, or all of the picture, which then is squashed.

    Args:
        rng: source of randomness.
        extended: the extended box, inside the picture.
        size: (width, height) of the picture.

    Returns:
        A square that is as long as the picture's shorter side, then zoomed as in `square_crop`. All of the picture if
        it is square, or if no two positions of such a square hold the box.
    """
    whole = (0, 0, *size)
    side, along = min(size), 0 if size[0] > size[1] else 1
    first, last = max(extended[along + 2] - side, 0), min(extended[along] + side, size[along]) - side
    if size[0] == size[1] or last <= first:
        return whole
    start = int(rng.integers(first, last + 1))
    x, y = (start, 0) if along == 0 else (0, start)
    free = min(extended[0] - x, extended[1] - y, x + side - extended[2], y + side - extended[3])
    shaved = int(rng.integers(int(ZOOM * free) + 1))
    return x + shaved, y + shaved, x + side - shaved, y + side - shaved


def reduction(crop: Box, padded: Box, size: int, exemplar_size: int) -> int:
    """The largest of 1, 2, 4, 8 by which the picture can be divided while no crop has to be enlarged for it.

    Args:
        crop: becomes the source, with sides of ``size``.
        padded: becomes the exemplar, with sides of ``exemplar_size``.
        size: pixels.
        exemplar_size: pixels.
    """
    least = min(crop[2] - crop[0], crop[3] - crop[1]) / size
    least = min(least, min(padded[2] - padded[0], padded[3] - padded[1]) / exemplar_size)
    return next((factor for factor in (8, 4, 2) if factor <= least), 1)


def snap(crop: Box, factor: int) -> Box:
    """Grow a square until its edges are multiples of a factor, so that it is the same in the reduced picture."""
    if factor == 1:
        return crop
    x, y = crop[0] // factor * factor, crop[1] // factor * factor
    side = -(-max(crop[2] - x, crop[3] - y) // factor) * factor
    return x, y, x + side, y + side


def reduced(box: Box, factor: int) -> Box:
    """A box in the pixels of a picture that was decoded at a part of its sides, rounded outwards."""
    left, top, right, bottom = box
    return left // factor, top // factor, -(-right // factor), -(-bottom // factor)
