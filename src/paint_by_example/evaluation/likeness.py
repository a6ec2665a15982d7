"""How alike the painted box and the exemplar are: cosine of their features, and rank among other exemplars."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..crops import mask_bounds
from ..errors import MaskError

Pixels = NDArray[np.uint8]
Features = NDArray[np.floating]
T = TypeVar("T", bound=np.generic)


def painted_box(picture: NDArray[T], mask: NDArray[np.bool_]) -> NDArray[T]:
    """The smallest box around all that is repainted, cut out: (H, W, ...) to (h, w, ...).

    Raises:
        MaskError: the mask selects nothing.
    """
    left, top, right, bottom = mask_bounds(mask)
    return picture[top:bottom, left:right]


def painted_box_original(picture: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """The box as the authors' script cuts it: from the first to before the last repainted pixel in reading order.

    For a rectangle that is the box without its last row and column; for other shapes it is hardly a box around it.

    Raises:
        MaskError: nothing is left.
    """
    places = np.flatnonzero(mask)
    if not len(places):
        raise MaskError("the mask selects nothing; white marks what is repainted")
    (top, left), (bottom, right) = (divmod(int(place), mask.shape[1]) for place in (places[0], places[-1]))
    box = picture[top:bottom, left:right]
    if not box.size:
        raise MaskError("the authors' crop of this mask is empty: it needs a rectangle of at least 2 x 2 pixels")
    return box


def cosine(a: Features, b: Features) -> NDArray[np.float64]:
    """Of the rows of (n, D) and (n, D): (n,) in [-1, 1]."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return np.asarray((x * y).sum(1) / np.maximum(lengths, np.finfo(np.float64).tiny))


def retrieval(boxes: Features, gallery: Features, right: NDArray[np.integer]) -> tuple[NDArray[np.int64], Features]:
    """Rank of the right exemplar among all, by cosine.

    What all exemplars have in common says nothing about which is which, so their mean is taken from everything first.

    Args:
        boxes: (n, D), of painted boxes.
        gallery: (m, D), of the exemplars.
        right: (n,), which exemplar each box was painted after.

    Returns:
        How many exemplars are nearer than the right one, (n,), and the cosine with the right one, (n,).
    """
    centre = gallery.mean(0)
    x, y = boxes - centre, gallery - centre
    similarity = (x / norm(x)) @ (y / norm(y)).T
    mine = similarity[np.arange(len(boxes)), right]
    return (similarity > mine[:, None]).sum(1), mine


def norm(x: Features) -> Features:
    """Lengths of rows, (n, D) to (n, 1), never 0."""
    return np.asarray(np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12)))
