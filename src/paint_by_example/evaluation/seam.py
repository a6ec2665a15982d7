"""How visible the mask's edge is in a result."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def seam_visibility(result: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """The step across the mask's edge beyond the steps just beside it.

    Of each pair of neighbours, one repainted and one kept, the difference is taken, and from it the mean of the
    differences of the pairs before and behind in the same direction. Where there is no seam the three are alike and the
    mean over the edge is about 0, whatever the texture; a step of k grey levels along the whole edge gives about k.

    Args:
        result: (H, W, 3).
        mask: (H, W), True = repaint.

    Returns:
        Grey levels of 255, mean over pairs and channels; 0 where the mask has no edge in the picture.
    """
    total, count = 0.0, 0
    for pixels, inside in ((result, mask), (result.swapaxes(0, 1), mask.T)):
        steps = np.abs(np.diff(pixels.astype(np.float64), axis=1)).mean(2)  # (H, W - 1)
        edge = inside[:, 1:] != inside[:, :-1]
        edge[:, [0, -1]] = False  # pairs at the border have nothing before or behind
        here = steps[edge]
        beside = (steps[:, :-2] + steps[:, 2:])[edge[:, 1:-1]] / 2
        total += float((here - beside).sum())
        count += len(here)
    return total / count if count else 0.0
