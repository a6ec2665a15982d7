"""Mask shapes for training: what a box in a picture becomes (Paint by Example, arXiv 2211.13227, section 4.1).

1 = repaint, 0 = keep, as everywhere in this package. Boxes are (left, top, right, bottom), right and bottom exclusive.
"""

from __future__ import annotations

import cv2
import numpy as np

from ..images import Box, Size

EXTENSION = 0.4  # each side of a box grows by up to this share of the free space next to it (authors' code)
POINTS_PER_SIDE = 20  # points sampled on each side's Bezier curve (paper)
JITTER = 5  # each point moves by 1..JITTER pixels on each axis, either way (paper)
ARBITRARY_SHARE = 0.5  # share of masks with an arbitrary shape; the rest are rectangles (authors' configuration)


def extend_box(rng: np.random.Generator, box: Box, size: Size, extension: float = EXTENSION) -> Box:
    """Grow each side of a box by a random share of the free space next to it.

    Args:
        rng: source of randomness.
        box: the tight box, in pixels, inside the picture.
        size: (width, height) of the picture.
        extension: largest share, in [0, 1].

    Returns:
        A box that contains ``box`` and lies inside the picture.
    """
    left, top, right, bottom = box
    width, height = size

    def grow(free: int) -> int:
        return int(rng.integers(0, int(extension * free) + 1))

    return left - grow(left), top - grow(top), right + grow(width - right), bottom + grow(height - bottom)


def rectangle_mask(box: Box, size: Size) -> np.ndarray:
    """Fill a box.

    Returns:
        (H, W) uint8 in {0, 1}.
    """
    left, top, right, bottom = box
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def bezier_outline(tight: Box, extended: Box, points: int = POINTS_PER_SIDE) -> np.ndarray:
    """Sample four quadratic Bezier curves, one a side: corner of the tight box, middle of the extended edge, corner.

    A quadratic curve reaches half way to its middle control point, so the outline bulges by half the extension.

    Returns:
        (4 * points, 2) float64, (x, y) in pixels, clockwise from the top left corner.
    """
    left, top, right, bottom = tight
    mid_x, mid_y = (left + right) / 2, (top + bottom) / 2
    sides = np.array(
        [
            [(left, top), (mid_x, extended[1]), (right, top)],
            [(right, top), (extended[2], mid_y), (right, bottom)],
            [(right, bottom), (mid_x, extended[3]), (left, bottom)],
            [(left, bottom), (extended[0], mid_y), (left, top)],
        ],
        dtype=np.float64,
    )  # (side, control point, xy)
    t = np.arange(points) / points  # 0 <= t < 1: each corner belongs to one side
    weights = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], axis=1)  # (points, control point)
    return np.asarray(np.einsum("pc,scd->spd", weights, sides).reshape(-1, 2))


def released_outline(tight: Box, extended: Box, points: int) -> np.ndarray:
    """The outline as the authors' code samples it: without the curves' ends, and with points missing.

    Of each curve come the parameters 1/20, 2/20, ... A point is left out where its exact x or its exact y was there
    before on the same curve. The two halves of a curve are mirror images, so rounding decides which points of its
    second half stay, and a side that is not extended keeps a few at most.

    Args:
        tight: see `bezier_outline`.
        extended: see `bezier_outline`.
        points: parameters a curve; 18 in the authors' code.

    Returns:
        (N, 2) float64, (x, y) in pixels, clockwise; N from 4 to 4 * points.
    """
    left, top, right, bottom = map(float, tight)
    mid_x, mid_y = (left + right) / 2, (top + bottom) / 2
    kept: list[tuple[float, float]] = []
    for start, control, end in (
        ((left, top), (mid_x, float(extended[1])), (right, top)),
        ((right, top), (float(extended[2]), mid_y), (right, bottom)),
        ((right, bottom), (mid_x, float(extended[3])), (left, bottom)),
        ((left, bottom), (float(extended[0]), mid_y), (left, top)),
    ):
        seen_x: set[float] = set()
        seen_y: set[float] = set()
        for number in range(1, points + 1):
            t = number * 0.05
            x, y = (
                ((1 - t) * a + 2 * t * b) * (1 - t) + t * t * c for a, b, c in zip(start, control, end, strict=True)
            )
            if x not in seen_x and y not in seen_y:
                kept.append((x, y))
                seen_x.add(x)
                seen_y.add(y)
    return np.array(kept)


def jitter_points(
    rng: np.random.Generator, points: np.ndarray, jitter: int = JITTER, pixel: float = 1.0, may_stay: bool = False
) -> np.ndarray:
    """Move each point by a whole number of steps, 1 to ``jitter``, on each axis and either way: no point stays.

    Args:
        rng: source of randomness.
        points: (N, 2), (x, y) in pixels.
        jitter: largest number of steps.
        pixel: length of a step, in pixels.
        may_stay: draw from -``jitter`` to ``jitter`` instead, 0 among them.

    Returns:
        (N, 2) float64.
    """
    if may_stay:
        return np.asarray(points + rng.integers(-jitter, jitter + 1, points.shape) * pixel, np.float64)
    distance = rng.integers(1, jitter + 1, points.shape)
    sign = rng.choice((-1, 1), points.shape)
    return np.asarray(points + sign * distance * pixel, np.float64)


def arbitrary_mask(
    rng: np.random.Generator,
    tight: Box,
    extended: Box,
    size: Size,
    jitter: int = JITTER,
    pixel: float = 1.0,
    points: int = POINTS_PER_SIDE,
    drop_points: bool = False,
    may_stay: bool = False,
) -> np.ndarray:
    """An arbitrary shape around a box: points on its Bezier outline, each moved a little, joined by straight lines.

    Args:
        rng: source of randomness.
        tight: the box that the outline's corners lie on.
        extended: the box that its sides bulge towards.
        size: (width, height) of the picture.
        jitter: a point moves by 1 to this many steps on each axis.
        pixel: length of such a step in pixels of this picture.
        points: points on each side's curve.
        drop_points: leave out those that the authors' code does, see `released_outline`.
        may_stay: see `jitter_points`.

    Returns:
        (H, W) uint8 in {0, 1}; never empty.
    """
    outline = released_outline if drop_points else bezier_outline
    moved = jitter_points(rng, outline(tight, extended, points), jitter, pixel, may_stay)
    polygon = np.rint(moved).astype(np.int32)
    mask = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(mask, [polygon], (1,))
    if not mask.any():  # a box smaller than the jitter can fold into nothing inside the picture
        return rectangle_mask(tight, size)
    return mask


def draw_mask(
    rng: np.random.Generator,
    box: Box,
    extended: Box,
    size: Size,
    arbitrary_share: float = ARBITRARY_SHARE,
    jitter: int = JITTER,
    pixel: float = 1.0,
    points: int = POINTS_PER_SIDE,
    drop_points: bool = False,
    may_stay: bool = False,
) -> np.ndarray:
    """A rectangle or an arbitrary shape around a box whose extension is already drawn.

    Args:
        rng: source of randomness.
        box: the tight box, inside the picture.
        extended: the same box with its extension, from `extend_box`.
        size: (width, height) of the picture.
        arbitrary_share: probability of an arbitrary shape.
        jitter: see `arbitrary_mask`.
        pixel: see `arbitrary_mask`.
        points: see `arbitrary_mask`.
        drop_points: see `arbitrary_mask`.
        may_stay: see `jitter_points`.

    Returns:
        (H, W) uint8 in {0, 1}; never empty.
    """
    if rng.random() < arbitrary_share:
        return arbitrary_mask(rng, box, extended, size, jitter, pixel, points, drop_points, may_stay)
    return rectangle_mask(extended, size)


def random_mask(
    rng: np.random.Generator,
    box: Box,
    size: Size,
    arbitrary_share: float = ARBITRARY_SHARE,
    jitter: int = JITTER,
    extension: float = EXTENSION,
) -> np.ndarray:
    """The mask of one training example: a rectangle or an arbitrary shape around a box extended at random.

    Args:
        rng: source of randomness.
        box: the tight box, inside the picture.
        size: (width, height) of the picture.
        arbitrary_share: probability of an arbitrary shape.
        jitter: see `arbitrary_mask`.
        extension: see `extend_box`.

    Returns:
        (H, W) uint8 in {0, 1}; never empty.
    """
    return draw_mask(rng, box, extend_box(rng, box, size, extension), size, arbitrary_share, jitter)
