"""The paper's self-supervised dataset: an object in a picture is its own exemplar (arXiv 2211.13227, section 3.1).

An index, ``index.jsonl``, says where the pictures are and what is in them, a JSON object a line:

    {"picture": "photos/0001.jpg", "boxes": [[left, top, right, bottom], ...]}

Paths are relative to the index's folder, boxes in pixels with right and bottom exclusive. From one of the boxes, padded
a little and augmented, comes the exemplar; the mask is drawn around the same box; and a square crop of the picture is
what the model learns to paint:

    box -> exemplar:  pad -> crop -> resize -> augment
    box -> extended box -> square crop, zoomed -> mask -> crop -> resize

Two things differ from the authors' code. A box that no square crop of the picture can hold gets a picture continued
beyond its border, where theirs is squashed. And pictures are averaged when they shrink and masks stay black and white,
where theirs are interpolated.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import DataError, PictureError
from ..images import EXEMPLAR_SIZE, IMAGE_SIZE, Box, Size, crop_image, crop_mask, load_image, resize, resize_mask
from .augment import augment
from .masks import ARBITRARY_SHARE, JITTER, draw_mask, extend_box

EXEMPLAR_PADDING = 10  # pixels of the picture on each side of the box (authors' code)
ZOOM = 0.6  # up to this share of the free margin around the box is shaved off (authors' code)


class Examples(Protocol):
    """What the trainer needs of a dataset: an item depends only on its seed, ``epoch`` and the index."""

    epoch: int

    def __len__(self) -> int:
        """Items an epoch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``source`` (3, S, S) float32 in [-1, 1], ``mask`` (1, S, S) float32 in {0, 1}, ``exemplar`` (E, E, 3) uint8.

        Where features of the exemplars were computed ahead, ``features`` (F,) float32 take the exemplar's place.
        """


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an index."""

    number: int
    """Counted from 1, for messages."""
    picture: str
    """Path, relative to the index's folder or absolute."""
    boxes: np.ndarray
    """(N, 4) float64, N at least 1: left, top, right, bottom in pixels; may reach outside the picture."""


class BoxDataset:
    """Pictures and the boxes in them. An item depends only on (seed, epoch, index), never on who asks for it.

    Args:
        index: an ``index.jsonl``.
        size: side S of source and mask, pixels.
        exemplar_size: side E of the exemplar, pixels.
        seed: of everything drawn.
        arbitrary_share: share of masks with an arbitrary shape; the rest are rectangles.

    Raises:
        DataError: if the index cannot be read, or one of its lines is not as above; the message has its number.
    """

    def __init__(
        self,
        index: Path,
        size: int = IMAGE_SIZE,
        exemplar_size: int = EXEMPLAR_SIZE,
        seed: int = 0,
        arbitrary_share: float = ARBITRARY_SHARE,
    ) -> None:
        self.index, self.lines = index, read_index(index)
        self.size, self.exemplar_size, self.seed = size, exemplar_size, seed
        self.arbitrary_share = arbitrary_share
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One training example: a picture with one of its boxes.

        Returns:
            ``source`` (3, S, S) float32 in [-1, 1], ``mask`` (1, S, S) float32 in {0, 1}, ``exemplar`` (E, E, 3) uint8.

        Raises:
            DataError: if the picture cannot be used, or the box lies outside it.
            IndexError: if there are not that many items.
        """
        if not 0 <= index < len(self):  # also what ends a loop over the items
            raise IndexError(f"item {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, self.epoch, index))
        line = self.lines[index]
        picture = self.picture(line)
        size = picture.shape[1], picture.shape[0]
        box = self.box(line, int(rng.integers(len(line.boxes))), size)
        exemplar = augment(rng, self.exemplar(picture, box))
        extended = extend_box(rng, box, size)
        crop = square_crop(rng, jitter_room(extended, size), size)
        # The paper's points move by 1 to 5 pixels of a canvas of 512. The mask is drawn on the picture, where such a
        # pixel is 1 / 512 of the crop's side long, whatever the canvas is here. (In a crop smaller than the canvas that
        # is less than a pixel of the picture: a point may then stay.)
        mask = draw_mask(rng, box, extended, size, self.arbitrary_share, pixel=(crop[2] - crop[0]) / IMAGE_SIZE)
        source = resize(crop_image(picture, crop), (self.size, self.size))
        hole = resize_mask(crop_mask(mask > 0, crop), (self.size, self.size))  # no stroke is lost
        return {
            "source": np.ascontiguousarray(source.transpose(2, 0, 1), np.float32) / 127.5 - 1,
            "mask": hole[None].astype(np.float32),
            "exemplar": exemplar,
        }

    def picture(self, line: Line) -> np.ndarray:
        """A line's picture: (H, W, 3) uint8.

        Raises:
            DataError: if it cannot be used.
        """
        try:
            return np.asarray(load_image(self.index.parent / line.picture, "picture").convert("RGB"))
        except PictureError as error:
            raise DataError(f"{self.index}, line {line.number}: {error}") from error

    def box(self, line: Line, number: int, size: Size) -> Box:
        """One of a line's boxes, in whole pixels and without what lies outside the picture.

        Raises:
            DataError: if nothing of it lies in the picture.
        """
        left, top, right, bottom = line.boxes[number].tolist()
        width, height = size
        box = (
            max(math.floor(left), 0),
            max(math.floor(top), 0),
            min(math.ceil(right), width),
            min(math.ceil(bottom), height),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(
                f"{self.index}, line {line.number}: the box {line.boxes[number].tolist()} lies outside {line.picture},"
                f" which is {width} x {height} pixels; boxes are left, top, right, bottom in pixels"
            )
        return box

    def exemplar(self, picture: np.ndarray, box: Box) -> np.ndarray:
        """The box and a little around it, squashed to a square, not yet augmented: (E, E, 3) uint8."""
        height, width = picture.shape[:2]
        crop = crop_image(picture, grow(box, EXEMPLAR_PADDING, (width, height)))
        return resize(crop, (self.exemplar_size, self.exemplar_size))


def read_index(path: Path) -> list[Line]:
    """Read an ``index.jsonl``; empty lines are passed over.

    Raises:
        DataError: if it is not there, is not text, or one of its lines is not as the module says.
    """
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the index {path}: {error}") from error
    lines = [read_line(text, number, path) for number, text in enumerate(texts, start=1) if text.strip()]
    if not lines:
        raise DataError(f"the index {path} is empty: expected a JSON object with picture and boxes on each line")
    return lines


def read_line(text: str, number: int, path: Path) -> Line:
    """Read one line of an index.

    Raises:
        DataError: if it is not as the module says.
    """

    def wrong(problem: str) -> DataError:
        expected = '{"picture": "a.jpg", "boxes": [[left, top, right, bottom], ...]}'
        return DataError(f"{path}, line {number}: {problem}; expected {expected}")

    try:
        entry = json.loads(text)
    except ValueError as error:
        raise wrong(f"this is no JSON ({error})") from None
    if not isinstance(entry, dict) or not isinstance(entry.get("picture"), str):
        raise wrong("there is no picture")
    boxes = entry.get("boxes")
    if not isinstance(boxes, list) or not boxes:
        raise wrong("there are no boxes")
    for box in boxes:
        if (
            not isinstance(box, list)
            or len(box) != 4
            or not all(type(edge) in (int, float) and math.isfinite(edge) for edge in box)
        ):
            raise wrong(f"{box} is not a box of four numbers")
        if box[0] >= box[2] or box[1] >= box[3]:
            raise wrong(f"the box {box} is empty: right must be greater than left, and bottom greater than top")
    return Line(number, entry["picture"], np.array(boxes, np.float64))


def grow(box: Box, margin: int, size: Size) -> Box:
    """Move each side of a box outwards, but not out of the picture."""
    left, top, right, bottom = box
    return max(left - margin, 0), max(top - margin, 0), min(right + margin, size[0]), min(bottom + margin, size[1])


def base_side(box: Box, size: Size) -> int:
    """The side of the square that is cropped for a box, before it is zoomed.

    It is the picture's shorter side, so that as much as can be is seen of it, or the box's longer one if that is more.
    """
    return max(min(size), box[2] - box[0], box[3] - box[1])


def jitter_room(extended: Box, size: Size) -> Box:
    """The box that a mask drawn around ``extended`` stays in, wherever its points move, and whatever the crop's zoom.

    With a margin m, the crop's side is at most s + 2 m, so a point moves by at most J (s + 2 m) / 512 pixels of the
    picture; that is no more than m from m = J s / (512 - 2 J) on.
    """
    side = base_side(extended, size)
    # a polygon's edge is drawn on the pixel it runs through: one more
    return grow(extended, math.ceil(JITTER * side / (IMAGE_SIZE - 2 * JITTER)) + 1, size)


def square_crop(rng: np.random.Generator, box: Box, size: Size) -> Box:
    """Choose a square that contains a box: as large as the picture allows, anywhere, then zoomed towards the box.

    Args:
        rng: source of randomness.
        box: inside the picture.
        size: (width, height) of the picture.

    Returns:
        A square inside the picture, if one holds the box. Otherwise one as long as the box, which covers the picture's
        shorter side and reaches beyond it.
    """
    left, top, right, bottom = box
    side = base_side(box, size)

    def start(first: int, last: int, length: int) -> int:
        low, high = sorted((0, length - side))  # either inside the picture, or covering all of it
        return int(rng.integers(max(last - side, low), min(first, high) + 1))

    x, y = start(left, right, size[0]), start(top, bottom, size[1])
    free = min(left - x, top - y, x + side - right, y + side - bottom)
    shaved = int(rng.integers(int(ZOOM * free) + 1))
    return x + shaved, y + shaved, x + side - shaved, y + side - shaved
