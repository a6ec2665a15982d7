"""How much of the source's structure a result keeps inside the mask, by edges."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ..structure import gradients
from .likeness import painted_box

TOLERANCE = 0.0075  # of the picture's diagonal, as in the Berkeley benchmark of boundaries (Martin et al., 2004)
WEAKEST = 50.0  # sum of Sobel's responses: a step of some 20 grey levels


def edge_agreement(source: NDArray[np.uint8], result: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """F-measure of the edges of source and result inside the mask.

    An edge pixel is found again if the other picture has one within the tolerance. The figure says whether the
    structure of what stood there was kept. A plain edit is free not to do so; it is a merit only where asked for.

    Args:
        source: (H, W, 3).
        result: (H, W, 3).
        mask: (H, W), True = repaint.

    Returns:
        [0, 1]; 1 where neither has an edge, 0 where only one has.
    """
    radius = max(1, round(TOLERANCE * float(np.hypot(*mask.shape))))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    found = [edges(picture, mask) for picture in (source, result)]
    near = [cv2.dilate(one.astype(np.uint8), disc) > 0 for one in found]
    if not found[0].any() or not found[1].any():
        return float(found[0].any() == found[1].any())
    recall, precision = float(near[1][found[0]].mean()), float(near[0][found[1]].mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def edges(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Canny's edges inside a mask, (H, W); its thresholds follow from the gradients there, so light does not count."""
    dx, dy, strength = gradients(picture)
    inside = painted_box(strength, mask)
    high = max(float(np.quantile(inside, 0.95)) / 2, WEAKEST)
    return np.asarray((cv2.Canny(dx, dy, 0.4 * high, high) > 0) & mask)
