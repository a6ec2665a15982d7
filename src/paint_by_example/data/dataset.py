"""The paper's self-supervised dataset: an object in a picture is its own exemplar (arXiv 2211.13227, section 3.1).

An index, ``index.jsonl``, says where the pictures are and what is in them, a JSON object a line:

    {"picture": "photos/0001.jpg", "boxes": [[left, top, right, bottom], ...]}

Paths are relative to the index's folder, boxes in pixels with right and bottom exclusive. A line may also have
``masks``, for each box the path of a picture that is white where the object is, or null. From one of the boxes, padded
a little and augmented, comes the exemplar; the mask is drawn around the same box; and a square crop of the picture is
what the model learns to paint:

    box -> exemplar:  pad -> crop -> resize -> augment
    box -> extended box -> square crop, zoomed -> mask -> crop -> resize

`recipes` says in what the paper's way, the authors' and ours differ. In all of them the crop is chosen before the
picture is decoded, which happens once, and for JPEG files at a half, quarter or eighth where no detail is lost by it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..crops import crop_image, resize, resize_mask
from ..errors import DataError, MaskError, PictureError
from ..images import EXEMPLAR_SIZE, IMAGE_SIZE, Box, Size, image_size, load_image, load_mask
from .augment import augment
from .masks import JITTER, draw_mask, extend_box
from .recipes import DEFAULT, Recipe

EXEMPLAR_PADDING = 10  # pixels of the picture on each side of the box (authors' code)
ZOOM = 0.6  # up to this share of the free margin around the box is shaved off (authors' code)


class Examples(Protocol):
    """What the trainer needs of a dataset: an item depends only on its seed, ``epoch`` and the index."""

    epoch: int

    def __len__(self) -> int:
        """Items an epoch."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``source`` (3, S, S) float32 in [-1, 1], ``mask`` (1, S, S) float32 in {0, 1}, ``exemplar`` (E, E, 3) uint8.

        A mask of the recipe `released` also has values in between. Where features of the exemplars were computed ahead,
        ``features`` (F,) float32 take the exemplar's place.
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
    masks: tuple[str | None, ...] = ()
    """Of each box, the path of a picture that is white where the object is; empty if the line has none."""


class BoxDataset:
    """Pictures and the boxes in them. An item depends only on (seed, epoch, index), never on who asks for it.

    Args:
        index: an ``index.jsonl``.
        size: side S of source and mask, pixels.
        exemplar_size: side E of the exemplar, pixels.
        seed: of everything drawn.
        recipe: how an example is made.

    Raises:
        DataError: if the index cannot be read, or one of its lines is not as above; the message has its number.
    """

    def __init__(
        self,
        index: Path,
        size: int = IMAGE_SIZE,
        exemplar_size: int = EXEMPLAR_SIZE,
        seed: int = 0,
        recipe: Recipe = DEFAULT,
    ) -> None:
        self.index, self.lines = index, read_index(index)
        self.size, self.exemplar_size, self.seed = size, exemplar_size, seed
        self.recipe = recipe
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One training example: a picture with one of its boxes.

        Returns:
            ``source`` (3, S, S) float32 in [-1, 1], ``mask`` (1, S, S) float32 in {0, 1}, ``exemplar`` (E, E, 3) uint8.
            A soft mask, see `Recipe`, is in [0, 1].

        Raises:
            DataError: if the picture cannot be used, or the box lies outside it.
            IndexError: if there are not that many items.
        """
        if not 0 <= index < len(self):  # also what ends a loop over the items
            raise IndexError(f"item {index} of {len(self)}")
        rng = np.random.default_rng((self.seed, self.epoch, index))
        line, recipe = self.lines[index], self.recipe
        size = self.picture_size(line)
        number = self.choose(rng, line, size)
        box = self.box(line, number, size)
        extended = extend_box(rng, box, size, 0.0 if rng.random() < recipe.tight_share else recipe.extension)
        if recipe.squash:
            crop = squashing_crop(rng, extended, size)
        else:
            crop = square_crop(rng, jitter_room(extended, size), size)
        padded = grow(box, EXEMPLAR_PADDING, size)
        factor = reduction(crop, padded, self.size, self.exemplar_size) if recipe.antialias else 1
        picture = self.picture(line, factor)
        if picture.shape[:2] == size[::-1]:
            factor = 1  # not a JPEG file
        crop = snap(crop, factor)
        # The paper's points move by 1 to 5 pixels of a canvas of 512. The mask is drawn on the picture, where such a
        # pixel is 1 / 512 of the crop's side long, whatever the canvas is here. (In a crop smaller than the canvas that
        # is less than a pixel of the picture: a point may then stay.)
        pixel = 1.0 if recipe.jitter_in_picture else (crop[2] - crop[0]) / IMAGE_SIZE
        mask = draw_mask(
            rng,
            box,
            extended,
            size,
            recipe.arbitrary_share,
            pixel=pixel,
            points=recipe.points_per_side,
            drop_points=recipe.drop_points,
            may_stay=recipe.points_may_stay,
        )
        source = self.shrink(cut(picture, reduced(crop, factor)), self.size)
        exemplar = self.exemplar(picture, reduced(padded, factor))
        if recipe.remove_background and line.masks and rng.random() < recipe.remove_background:
            exemplar = self.without_background(exemplar, line, number, padded, size)
        return {
            "source": chw(source),
            "mask": self.hole(cut(mask, crop))[None],
            "exemplar": augment(rng, exemplar, warps=recipe.warps),
        }

    def picture_size(self, line: Line) -> Size:
        """Width and height of a line's picture.

        Raises:
            DataError: if it cannot be used.
        """
        try:
            return image_size(self.index.parent / line.picture, "picture")
        except PictureError as error:
            raise DataError(f"{self.index}, line {line.number}: {error}") from error

    def picture(self, line: Line, factor: int = 1) -> np.ndarray:
        """A line's picture: (H, W, 3) uint8; of a JPEG file (ceil(H / factor), ceil(W / factor), 3).

        Raises:
            DataError: if it cannot be used.
        """
        try:
            return np.asarray(load_image(self.index.parent / line.picture, "picture", factor).convert("RGB"))
        except PictureError as error:
            raise DataError(f"{self.index}, line {line.number}: {error}") from error

    def choose(self, rng: np.random.Generator, line: Line, size: Size) -> int:
        """The number of one of a line's boxes: of those whose area the recipe asks for, or else of all."""
        edges = line.boxes.clip(0, (*size, *size))
        shares = (edges[:, 2:] - edges[:, :2]).prod(axis=1) / math.prod(size)
        fitting = np.flatnonzero((shares >= self.recipe.min_area) & (shares <= self.recipe.max_area))
        candidates = fitting if len(fitting) else np.arange(len(shares))
        return int(candidates[int(rng.integers(len(candidates)))])

    def box(self, line: Line, number: int, size: Size) -> Box:
        """One of a line's boxes, in whole pixels and without what lies outside the picture.

        Raises:
            DataError: if nothing of it lies in the picture.
        """
        left, top, right, bottom = line.boxes[number].tolist()
        width, height = size
        up = math.floor if self.recipe.truncate_boxes else math.ceil
        box = max(math.floor(left), 0), max(math.floor(top), 0), min(up(right), width), min(up(bottom), height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise DataError(
                f"{self.index}, line {line.number}: the box {line.boxes[number].tolist()} lies outside {line.picture},"
                f" which is {width} x {height} pixels; boxes are left, top, right, bottom in pixels"
            )
        return box

    def exemplar(self, picture: np.ndarray, padded: Box) -> np.ndarray:
        """The box with its padding, squashed to a square, not yet augmented: (E, E, 3) uint8."""
        crop = cut(picture, padded)
        if not self.recipe.antialias:
            return cv2.resize(crop, (self.exemplar_size, self.exemplar_size), interpolation=cv2.INTER_LINEAR)
        return resize(crop, (self.exemplar_size, self.exemplar_size))

    def without_background(self, exemplar: np.ndarray, line: Line, number: int, padded: Box, size: Size) -> np.ndarray:
        """An exemplar over white, where its box has a mask: (E, E, 3) uint8 to the same.

        Raises:
            DataError: if the mask cannot be used.
        """
        path = line.masks[number]
        if path is None:
            return exemplar
        try:
            shown = cut(load_mask(self.index.parent / path, size), padded)
        except (PictureError, MaskError) as error:
            raise DataError(f"{self.index}, line {line.number}, mask {path}: {error}") from error
        side = self.exemplar_size
        alpha = resize((shown * 255).astype(np.uint8), (side, side))[..., None].astype(np.float32) / 255
        white: np.ndarray = np.rint(exemplar * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return white

    def shrink(self, crop: np.ndarray, side: int) -> np.ndarray:
        """A crop at the canvas's size: (side, side, 3) of [0, 255]; without averaging as float32, as the authors."""
        if self.recipe.antialias:
            return resize(crop, (side, side))
        return cv2.resize(crop.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)

    def hole(self, mask: np.ndarray) -> np.ndarray:
        """A mask at the canvas's size: (h, w) uint8 in {0, 1} to (S, S) float32."""
        if self.recipe.soft_mask:
            return cv2.resize(mask.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return resize_mask(mask > 0, (self.size, self.size)).astype(np.float32)  # no stroke is lost


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
    masks = entry.get("masks", [])
    if not isinstance(masks, list) or not all(mask is None or isinstance(mask, str) for mask in masks):
        raise wrong("its masks are no list of paths")
    if masks and len(masks) != len(boxes):
        raise wrong(f"there are {len(masks)} masks for {len(boxes)} boxes")
    return Line(number, entry["picture"], np.array(boxes, np.float64), tuple(masks))


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


def squashing_crop(rng: np.random.Generator, extended: Box, size: Size) -> Box:
    """The crop that the authors' code takes: a square, or all of the picture, which then is squashed.

    Args:
        rng: source of randomness.
        extended: the extended box, inside the picture.
        size: (width, height) of the picture.

    Returns:
        A square that is as long as the picture's shorter side, then zoomed as in `square_crop`. All of the picture if
        it is square, or if no two positions of such a square hold the box.
    """
    whole = (0, 0, *size)
    side, along = min(size), 0 if size[0] > size[1] else 1
    first, last = max(extended[along + 2] - side, 0), min(extended[along] + side, size[along]) - side
    if size[0] == size[1] or last <= first:
        return whole
    start = int(rng.integers(first, last + 1))
    x, y = (start, 0) if along == 0 else (0, start)
    free = min(extended[0] - x, extended[1] - y, x + side - extended[2], y + side - extended[3])
    shaved = int(rng.integers(int(ZOOM * free) + 1))
    return x + shaved, y + shaved, x + side - shaved, y + side - shaved


def reduction(crop: Box, padded: Box, size: int, exemplar_size: int) -> int:
    """The largest of 1, 2, 4, 8 by which the picture can be divided while no crop has to be enlarged for it.

    Args:
        crop: becomes the source, with sides of ``size``.
        padded: becomes the exemplar, with sides of ``exemplar_size``.
        size: pixels.
        exemplar_size: pixels.
    """
    least = min(crop[2] - crop[0], crop[3] - crop[1]) / size
    least = min(least, min(padded[2] - padded[0], padded[3] - padded[1]) / exemplar_size)
    return next((factor for factor in (8, 4, 2) if factor <= least), 1)


def snap(crop: Box, factor: int) -> Box:
    """Grow a square until its edges are multiples of a factor, so that it is the same in the reduced picture."""
    if factor == 1:
        return crop
    x, y = crop[0] // factor * factor, crop[1] // factor * factor
    side = -(-max(crop[2] - x, crop[3] - y) // factor) * factor
    return x, y, x + side, y + side


def reduced(box: Box, factor: int) -> Box:
    """A box in the pixels of a picture that was decoded at a part of its sides, rounded outwards."""
    left, top, right, bottom = box
    return left // factor, top // factor, -(-right // factor), -(-bottom // factor)


def cut(image: np.ndarray, crop: Box) -> np.ndarray:
    """What `crops.crop_image` gives, but without a copy where the crop lies inside the picture."""
    left, top, right, bottom = crop
    if left >= 0 and top >= 0 and right <= image.shape[1] and bottom <= image.shape[0]:
        return image[top:bottom, left:right]
    return crop_image(image, crop)


def chw(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) of [0, 255] to (3, H, W) float32 in [-1, 1]."""
    channels: np.ndarray = np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)
    channels /= 127.5
    channels -= 1
    return channels
