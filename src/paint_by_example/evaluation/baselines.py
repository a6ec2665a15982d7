"""Methods without a model, to compare with: each makes of a source, a mask and an exemplar a result.

All keep the pixels outside the mask as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from ..crops import mask_bounds, resize
from .benchmark import Item, Pixels

INPAINT_RADIUS = 5.0  # pixels
RING = 0.25  # width of the surroundings whose colours are taken on, as a share of the mask's longer side


def source(item: Item) -> Pixels:
    """The source as it is: what doing nothing scores, and on the small benchmark the true answer."""
    return item.source.copy()


def cut_and_paste(item: Item) -> Pixels:
    """The exemplar squeezed into the box around the mask."""
    left, top, right, bottom = mask_bounds(item.mask)
    patch = item.source.copy()
    patch[top:bottom, left:right] = resize(item.exemplar, (right - left, bottom - top))
    return inside(item, patch)


def poisson(item: Item) -> Pixels:
    """The pasted exemplar's gradients with the source's colours along the edge (Pérez et al., 2003)."""
    border = 2  # the solver wants to see pixels around the mask
    pasted, ground = (
        cv2.copyMakeBorder(picture, *(border,) * 4, cv2.BORDER_REPLICATE)
        for picture in (cut_and_paste(item), item.source)
    )
    mask = np.pad(item.mask, border).astype(np.uint8) * 255
    left, top, right, bottom = mask_bounds(mask > 0)
    # The middle of the box as the solver rounds it, so that nothing moves.
    centre = (left + (right - left) // 2, top + (bottom - top) // 2)
    blended = cv2.seamlessClone(pasted, ground, mask, centre, cv2.NORMAL_CLONE)
    return inside(item, np.asarray(blended, np.uint8)[border:-border, border:-border])


def harmonised(item: Item) -> Pixels:
    """The pasted exemplar with the mean and deviation of its surroundings' colours (Reinhard et al., 2001; in Lab)."""
    left, top, right, bottom = mask_bounds(item.mask)
    reach = max(2, round(RING * max(right - left, bottom - top)))
    ring = (cv2.dilate(item.mask.astype(np.uint8), np.ones((2 * reach + 1,) * 2, np.uint8)) > 0) & ~item.mask
    if not ring.any():
        return cut_and_paste(item)
    pasted, ground = (
        cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
        for picture in (cut_and_paste(item), item.source)
    )
    own, around = pasted[item.mask], ground[ring]
    moved = (own - own.mean(0)) * (around.std(0) / np.maximum(own.std(0), 1e-3)) + around.mean(0)
    pasted[item.mask] = moved
    picture = cv2.cvtColor(pasted, cv2.COLOR_Lab2RGB)
    return inside(item, np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def inpaint(item: Item) -> Pixels:
    """The hole filled from its edge (Telea, 2004): what a method scores that never looks at the exemplar."""
    filled = cv2.inpaint(item.source, item.mask.astype(np.uint8), INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return inside(item, np.asarray(filled, np.uint8))


def inside(item: Item, picture: NDArray[np.uint8]) -> Pixels:
    """A picture where the mask is, the source elsewhere."""
    return np.where(item.mask[..., None], picture, item.source)


BASELINES: dict[str, Callable[[Item], Pixels]] = {
    "source": source,
    "cut-and-paste": cut_and_paste,
    "harmonised": harmonised,
    "poisson": poisson,
    "inpaint": inpaint,
}
