"""Results painted after several exemplars, best first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..evaluation.likeness import cosine, painted_box
from ..evaluation.seam import seam_visibility
from ..painter import Painter
from .encoder import encode
from .searching import Search

SEAM = 0.01  # cosine that a step of one grey level along the mask's edge costs


def rank(
    search: Search, painter: Painter, results: Sequence[Image.Image], exemplars: Sequence[int], mask: NDArray[np.bool_]
) -> list[tuple[int, float]]:
    """Rank results by how alike what was painted and its exemplar are, less what the mask's edge shows.

    Args:
        search: of the library that the exemplars are from.
        painter: a model with its encoder.
        results: of one source, at least one.
        exemplars: of each the number of its exemplar.
        mask: (H, W), True = repainted.

    Returns:
        Place in ``results`` and score of each, best first.
    """
    scores = []
    for result, exemplar in zip(results, exemplars, strict=True):
        pixels = np.asarray(result.convert("RGB"))
        painted = encode(painter, Image.fromarray(painted_box(pixels, mask)))
        likeness = cosine(painted[None] - search.centre, search.features([exemplar]) - search.centre)[0]
        scores.append(float(likeness) - SEAM * max(seam_visibility(pixels, mask), 0.0))
    return sorted(enumerate(scores), key=lambda one: -one[1])
