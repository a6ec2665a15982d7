"""What was painted, made to fit its surroundings afterwards, without a network: colours, seams, and what goes on."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import UserError

HarmoniseName: TypeAlias = Literal["colour", "poisson"]

SHARE = 0.5  # of the way to the surroundings' statistics: an object has colours of its own
GAIN = (0.5, 2.0)  # limits of what contrast is multiplied by
AROUND = 2  # pixels that are put around a picture, so that a hole at its edge has a border


def check_harmonise(name: str | None) -> HarmoniseName | None:
    """The way of a name, or None.

    Raises:
        UserError: there is none of that name.
    """
    if name is None or name in get_args(HarmoniseName):
        return cast(HarmoniseName | None, name)
    raise UserError(f"unknown way to harmonise {name!r}; choose one of {', '.join(get_args(HarmoniseName))}")


def harmonise(
    name: HarmoniseName, source: NDArray[np.uint8], result: NDArray[np.uint8], mask: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Fit what was painted to what surrounds it.

    Args:
        name: colour or poisson.
        source: (H, W, 3), before.
        result: (H, W, 3), after; outside the mask it is the source.
        mask: (H, W), True = repainted. Where it covers everything, or nothing, nothing is done.

    Returns:
        A new (H, W, 3), the same outside the mask.
    """
    if mask.all() or not mask.any():
        return result.copy()
    changed = match_colours(result, mask) if name == "colour" else blend(source, result, mask)
    return np.where(mask[..., None], changed, source)


def match_colours(result: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Half-way from the hole's mean and deviation to its surroundings', in each channel of CIELAB.

    After Reinhard et al., Color Transfer between Images (IEEE CG&A 21, 2001), who go all the way and in lαβ.

    Args:
        result: (H, W, 3).
        mask: (H, W), True = the hole.

    Returns:
        (H, W, 3), of use within the hole.
    """
    lab = cv2.cvtColor(result.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    (inner, spread), (outer, wanted) = ((lab[part].mean(0), lab[part].std(0)) for part in (mask, ~mask))
    gain = np.clip(wanted / np.maximum(spread, 1e-3), *GAIN)
    moved = (lab - inner) * gain + outer
    mixed = lab + np.float32(SHARE) * (moved - lab)
    rgb = cv2.cvtColor(mixed.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.asarray(np.rint(255 * np.clip(rgb, 0, 1)), np.uint8)


def blend(source: NDArray[np.uint8], result: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The hole's gradients with the source's values at its border: Poisson image editing (Pérez et al., TOG 22, 2003).

    Where the hole touches the picture's edge there is no border to keep, and what was painted stands there.

    Args:
        source: (H, W, 3).
        result: (H, W, 3).
        mask: (H, W), True = the hole.

    Returns:
        (H, W, 3), of use within the hole.
    """
    sides, inner = (AROUND,) * 4, np.s_[AROUND:-AROUND, AROUND:-AROUND]
    painted = cv2.copyMakeBorder(result, *sides, cv2.BORDER_REPLICATE)
    kept = painted.copy()
    kept[inner] = source
    hole = cv2.copyMakeBorder(mask.astype(np.uint8) * 255, *sides, cv2.BORDER_CONSTANT, value=0)
    x, y, width, height = cv2.boundingRect(hole)
    blended = cv2.seamlessClone(painted, kept, hole, (x + width // 2, y + height // 2), cv2.NORMAL_CLONE)
    return np.asarray(blended[inner], np.uint8)


def fill(source: NDArray[np.uint8], mask: NDArray[np.bool_], radius: int = 3) -> NDArray[np.uint8]:
    """The surroundings continued into a hole, as OpenCV does after Telea (J. Graphics Tools 9(1), 2004).

    Args:
        source: (H, W, 3).
        mask: (H, W), True = the hole, not all of it.
        radius: pixels around each that are looked at.

    Returns:
        A new (H, W, 3), the same outside the mask.
    """
    return np.asarray(cv2.inpaint(np.ascontiguousarray(source), mask.astype(np.uint8), radius, cv2.INPAINT_TELEA))
