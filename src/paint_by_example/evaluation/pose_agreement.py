"""How much of a person's pose a result keeps inside the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..pose import LIKELY, Person

NEAR = 0.1  # of the person's size: how far a point may be off, as is usual for whole bodies
FEWEST = 4  # points of a person inside the mask, from which on there is a pose to keep


def pose_agreement(before: Sequence[Person], after: Sequence[Person], mask: NDArray[np.bool_]) -> float | None:
    """Share of correct points (PCK: Yang and Ramanan, PAMI 35, 2013), of the source's people inside the mask.

    A point is correct where the result has the same one within a tenth of the longer side of the person's box. Each
    person is compared with that of the result who has most of them right.

    Args:
        before: people of the source, see `pose.find_people`.
        after: people of the result.
        mask: (H, W), True = repaint.

    Returns:
        [0, 1]; None where the source has no person inside the mask, or less of one than `FEWEST` points.
    """
    right = total = 0
    for person in before:
        seen = person.visible >= LIKELY
        columns, rows = np.floor(person.points).astype(int).T
        inside = seen & (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        inside[inside] &= mask[rows[inside], columns[inside]]
        if inside.sum() < FEWEST:
            continue
        size = float(np.ptp(person.points[seen], axis=0).max())
        found = [
            (np.linalg.norm(person.points - other.points, axis=1) <= NEAR * size) & (other.visible >= LIKELY)
            for other in after
        ]
        right += max((int((one & inside).sum()) for one in found), default=0)
        total += int(inside.sum())
    return right / total if total else None
