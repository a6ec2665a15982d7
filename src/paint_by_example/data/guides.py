"""Structure maps for training: of the original region, and worn, so that they guide and are not traced.

The picture itself is what training has to paint, so its own structure is the guide (as in ControlNet, Zhang et al.,
arXiv 2302.05543). Whoever edits has the structure of another object in the hole, or a quick drawing. So parts of a map
are missing, lines are moved, broken, thick or blurred.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ..structure import edges, soft_edges
from .dataset import Examples

GUIDES = 71  # random stream of the maps; that of epoch n is GUIDES + n
CANNY = 0.4  # share of maps that are Canny's edges; the others are soft
SURROUNDED = 0.5  # share of maps that show what lies around the hole too
HOLES = 3  # parts that are missing, at most
HOLE = (0.08, 0.3)  # their sides, as shares of the map's
MOVED = 0.5  # share of maps whose lines are moved
SHIFT, TURN, GROW = 0.01, 2.0, 0.03  # how far: share of the side, degrees, share of the size
WAVE = 0.008  # deviation of a smooth displacement beyond that, as a share of the side
THICK, BLURRED = 0.3, 0.5  # shares of maps that are dilated, blurred
FAINT = 0.5  # the least brightness


class Guided:
    """Examples with a map of the structure of what they show.

    Args:
        data: the examples.
        seed: of what is worn off, with the example's epoch and index.
    """

    def __init__(self, data: Examples, seed: int) -> None:
        self.data, self.seed = data, seed

    @property
    def epoch(self) -> int:
        """Of the examples."""
        return self.data.epoch

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.data.epoch = value

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """An example, and ``structure`` (1, S, S) float32 in [0, 1]; -1 where it is to be told none.

        Without structure, objects stand as their exemplars show them: see `Composites`, ``bent``.
        """
        item = dict(self.data[index])
        if not item.pop("bent", True):
            return item | {"structure": np.full_like(item["mask"], -1)}
        rng = np.random.default_rng((self.seed, GUIDES + self.epoch, index))
        picture = np.rint((item["source"].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
        return item | {"structure": guide(rng, picture, item["mask"][0] > 0)[None]}


def guide(rng: np.random.Generator, picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A worn map of a picture's structure.

    Args:
        rng: source of randomness.
        picture: (S, S, 3) uint8.
        mask: (S, S) bool, True where the picture is painted.

    Returns:
        (S, S) float32 in [0, 1].
    """
    lines = (edges if rng.random() < CANNY else soft_edges)(np.ascontiguousarray(picture))[..., 0]
    return wear(rng, np.where(mask | (rng.random() < SURROUNDED), lines, 0).astype(np.uint8))


def wear(rng: np.random.Generator, lines: np.ndarray) -> np.ndarray:
    """Break, thicken, blur and fade lines, and move those of every other map.

    Args:
        rng: source of randomness.
        lines: (S, S) uint8.

    Returns:
        (S, S) float32 in [0, 1].
    """
    side = lines.shape[0]
    far = float(rng.random() < MOVED)
    turn, grow = far * rng.uniform(-TURN, TURN), np.exp(far * rng.uniform(-GROW, GROW))
    matrix = cv2.getRotationMatrix2D((side / 2, side / 2), turn, grow)
    matrix[:, 2] += far * rng.uniform(-SHIFT, SHIFT, 2) * side
    coarse = far * rng.normal(0, WAVE * side, (4, 4, 2)).astype(np.float32)
    wave = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    y, x = np.indices(lines.shape, dtype=np.float32)
    place = np.stack([x, y, np.ones_like(x)], axis=-1) @ cv2.invertAffineTransform(matrix).T.astype(np.float32) + wave
    picture = lines.astype(np.float32) / 255
    worn: np.ndarray = cv2.remap(picture, place[..., 0], place[..., 1], cv2.INTER_LINEAR)
    if rng.random() < THICK:
        worn = cv2.dilate(worn, np.ones((3, 3), np.uint8))
    if rng.random() < BLURRED:
        worn = cv2.GaussianBlur(worn, (0, 0), rng.uniform(0.5, 1.5) * side / 128)
    for _ in range(int(rng.integers(HOLES + 1))):
        width, height = (rng.uniform(*HOLE, 2) * side).astype(int)
        left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
        worn[top : top + height, left : left + width] = 0
    return np.clip(worn * rng.uniform(FAINT, 1.0), 0, 1).astype(np.float32)
