"""What a U-Net sees while it edits, for whoever has to know its usual values: gathered from edits of made-up pictures.

The pictures are dead leaves: discs of all sizes that cover one another, whose statistics are near those of photographs
(Lee, Mumford and Huang, IJCV 41, 2001). They are drawn from a seed, so that nothing has to be downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .compiled import predict
from .crops import box_mask
from .images import image_tensor, mask_tensor
from .sampling import make_scheduler, seeded_generators

EDITS, STEPS = 24, 5  # per edit that many evaluations, at levels from the noisiest to nearly clean
LEAVES = 300

Seen: TypeAlias = tuple[Tensor, ...]
"""What the network was called with: (2, C, h, w), 0-d, (2, 1, D); a distilled one also with λ, and with one picture."""


def dead_leaves(rng: np.random.Generator, side: int) -> NDArray[np.uint8]:
    """A made-up picture, (side, side, 3): discs whose radii have density r^-3, softly shaded, with a little grain."""
    picture = np.full((side, side, 3), rng.uniform(0, 255, 3), np.float32)
    smallest, largest = side / 32, side / 2
    for _ in range(LEAVES):
        u = rng.uniform()
        radius = 1 / np.sqrt(u / largest**2 + (1 - u) / smallest**2)
        centre = rng.uniform(0, side, 2)
        colour = rng.uniform(0, 255) + rng.normal(0, 40, 3)
        cv2.circle(picture, (int(centre[0]), int(centre[1])), max(round(radius), 1), colour.tolist(), -1)
    above, below = rng.uniform(0.6, 1.2, 2)
    picture *= np.linspace(above, below, side, dtype=np.float32)[:, None, None]
    picture += rng.normal(0, 4, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def unet_inputs(painter: Any, edits: int = EDITS, seed: int = 0) -> Iterator[Seen]:
    """What a model's U-Net is called with during some edits with guidance, each of other pictures.

    Args:
        painter: the model.
        edits: how many.
        seed: of pictures, holes and noise.
    """
    solver = make_scheduler("dpm++", painter.scheduler)
    side = painter.image_size
    seen: list[Seen] = []

    def network(*given: Tensor) -> Tensor:
        seen.append(tuple(one.clone() for one in given))
        return predict(painter.unet, *given)

    for number in range(edits):
        rng = np.random.default_rng([seed, number])
        width, height = rng.integers(side // 4, side * 3 // 4, 2)
        left, top = rng.integers(0, side - width), rng.integers(0, side - height)
        mask = box_mask((int(left), int(top), int(left + width), int(top + height)), (side, side))
        condition = painter.encode_exemplar(dead_leaves(rng, painter.image_encoder.image_size)[None])
        for _ in painter.paint(
            image_tensor(dead_leaves(rng, side)),
            mask_tensor(mask),
            condition,
            steps=STEPS,
            generators=seeded_generators([seed + number]),
            scheduler=solver,
            network=network,
        ):
            yield seen.pop()
