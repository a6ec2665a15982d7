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
FAINT = 0.02  # brightness of a line that half of the colours pass; see `fill_between`
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


def fill_between(source: NDArray[np.uint8], mask: NDArray[np.bool_], lines: NDArray[np.floating]) -> NDArray[np.uint8]:
    """The surroundings continued into a hole as far as lines let them.

    Colours come to rest where they would diffuse from the hole's border, with a conductance that lines take away
    (Perona and Malik, PAMI 12, 1990): so two sides of a line may differ, as in diffusion curves (Orzan et al., TOG 27,
    2008). The linear system is solved exactly, a row of pixels after the other.

    Args:
        source: (H, W, 3).
        mask: (H, W), True = the hole, not all of it.
        lines: (H, W) in [0, 1].

    Returns:
        A new (H, W, 3), the same outside the mask.
    """
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return source.copy()
    part = tuple(
        slice(max(found[0] - 1, 0), min(found[-1] + 2, size))
        for found, size in zip((rows, columns), mask.shape, strict=True)
    )
    hole, known = mask[part], source[part].astype(np.float64)
    open_ = 1 / (1 + (lines[part].astype(np.float64) / FAINT) ** 2)
    down, across = np.minimum(open_[1:], open_[:-1]), np.minimum(open_[:, 1:], open_[:, :-1])
    filled = _rest(hole, known, down, across)
    result = source.copy()
    result[part] = np.where(hole[..., None], np.rint(np.clip(filled, 0, 255)), known).astype(np.uint8)
    return result


def _rest(
    hole: NDArray[np.bool_],
    known: NDArray[np.float64],
    down: NDArray[np.float64],
    across: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Where diffusion comes to rest: block elimination, each row of pixels a block.

    Args:
        hole: (H, W).
        known: (H, W, C), which stays outside the hole.
        down: (H - 1, W), conductance between a pixel and the next below it.
        across: (H, W - 1), and the next beside it.

    Returns:
        (H, W, C).
    """
    height, width = hole.shape
    above, below = np.zeros((2, height, width))
    above[1:], below[:-1] = down, down
    left, right = np.zeros((2, height, width))
    left[:, 1:], right[:, :-1] = across, across
    total = np.where(hole, above + below + left + right, 1.0)
    above, below, left, right = (np.where(hole, x, 0.0) for x in (above, below, left, right))
    values = np.where(hole[..., None], 0.0, known)
    after: list[NDArray[np.float64]] = []  # how each row follows from the next one
    at: list[NDArray[np.float64]] = []
    place = np.arange(width)
    for row in range(height):
        block = np.zeros((width, width))
        block[place, place] = total[row]
        block[place[1:], place[:-1]] = -left[row, 1:]
        block[place[:-1], place[1:]] = -right[row, :-1]
        given = values[row]
        if row:
            block -= above[row][:, None] * after[-1]
            given = given + above[row][:, None] * at[-1]
        solved = np.linalg.solve(block, np.hstack([np.diag(below[row]), given]))
        after.append(solved[:, :width])
        at.append(solved[:, width:])
    result = np.empty_like(known)
    result[-1] = at[-1]
    for row in reversed(range(height - 1)):
        result[row] = at[row] + after[row] @ result[row + 1]
    return result
