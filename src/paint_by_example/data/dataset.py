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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from ..crops import crop_image, resize, resize_mask
from ..errors import DataError, UserError
from ..images import EXEMPLAR_SIZE, IMAGE_SIZE, Box, Size, image_size, load_image, load_mask
from .augment import augment
from .framing import grow, jitter_room, reduced, reduction, snap, square_crop, squashing_crop
from .masks import draw_mask, extend_box
from .recipes import DEFAULT, Recipe

EXEMPLAR_PADDING = 10  # pixels of the picture on each side of the box (authors' code)


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


class PictureExamples:
    """Makes examples of pictures with boxes, wherever the pictures are kept.

    Args:
        size: side S of source and mask, pixels.
        exemplar_size: side E of the exemplar, pixels.
        seed: of everything drawn.
        recipe: how an example is made.
    """

    def __init__(self, size: int, exemplar_size: int, seed: int, recipe: Recipe) -> None:
        self.size, self.exemplar_size, self.seed, self.recipe = size, exemplar_size, seed, recipe
        self.epoch = 0

    def example(self, number: int, line: Line, where: str, content: Callable[[str], Path | bytes]) -> dict[str, Any]:
        """One training example: a picture with one of its boxes.

        Args:
            number: of the picture, which with seed and epoch says what is drawn.
            line: the picture and its boxes.
            where: the line's place, for messages.
            content: gives the file, or what is in it, that a path of the line stands for.

        Returns:
            See `Examples`. A soft mask, see `Recipe`, is in [0, 1].

        Raises:
            DataError: if the picture or its mask cannot be used, or the box lies outside it.
        """
        try:
            return self.draw(np.random.default_rng((self.seed, self.epoch, number)), line, content)
        except UserError as error:
            raise DataError(f"{where}: {error}") from error

    def draw(self, rng: np.random.Generator, line: Line, content: Callable[[str], Path | bytes]) -> dict[str, Any]:
        """One training example, see `example`."""
        recipe, file = self.recipe, content(line.picture)
        size = image_size(file, "picture")
        number = self.choose(rng, line, size)
        box = self.box(line, number, size)
        extended = extend_box(rng, box, size, 0.0 if rng.random() < recipe.tight_share else recipe.extension)
        if recipe.squash:
            crop = squashing_crop(rng, extended, size)
        else:
            crop = square_crop(rng, jitter_room(extended, size), size)
        padded = grow(box, EXEMPLAR_PADDING, size)
        factor = reduction(crop, padded, self.size, self.exemplar_size) if recipe.antialias else 1
        image = load_image(file, "picture", factor)
        picture = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
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
        shown = cut(picture, reduced(crop, factor))
        # without averaging in float32, as the authors do
        source = self.resized(shown if recipe.antialias else shown.astype(np.float32), self.size)
        exemplar = self.resized(cut(picture, reduced(padded, factor)), self.exemplar_size)
        exemplar = np.ascontiguousarray(exemplar.transpose(1, 2, 0))
        if recipe.remove_background and line.masks and rng.random() < recipe.remove_background:
            name = line.masks[number]
            if name is not None:
                exemplar = self.without_background(exemplar, content(name), padded, size)
        return {
            "source": signed(source),
            "mask": self.hole(cut(mask, crop))[None],
            "exemplar": augment(rng, exemplar, warps=recipe.warps) if recipe.augment_exemplar else exemplar,
        }

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
                f"the box {line.boxes[number].tolist()} lies outside {line.picture},"
                f" which is {width} x {height} pixels; boxes are left, top, right, bottom in pixels"
            )
        return box

    def without_background(self, exemplar: np.ndarray, mask: Path | bytes, padded: Box, size: Size) -> np.ndarray:
        """An exemplar over white where a mask of its picture is black: (E, E, 3) uint8 to the same.

        Raises:
            MaskError: if the mask does not fit its picture.
            PictureError: if it cannot be read.
        """
        shown = cut(load_mask(mask, size), padded)
        side = self.exemplar_size
        alpha = resize((shown * 255).astype(np.uint8), (side, side))[..., None].astype(np.float32) / 255
        white: np.ndarray = np.rint(exemplar * alpha + 255 * (1 - alpha)).astype(np.uint8)
        return white

    def resized(self, crop: np.ndarray, side: int) -> np.ndarray:
        """A crop (H, W, 3) as a square: (3, side, side) of [0, 255]."""
        if not self.recipe.antialias:
            return cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR).transpose(2, 0, 1)
        return average(crop, side) if min(crop.shape[:2]) >= side else resize(crop, (side, side)).transpose(2, 0, 1)

    def hole(self, mask: np.ndarray) -> np.ndarray:
        """A mask at the canvas's size: (h, w) uint8 in {0, 1} to (S, S) float32."""
        if self.recipe.soft_mask:
            return cv2.resize(mask.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        return resize_mask(mask > 0, (self.size, self.size)).astype(np.float32)  # no stroke is lost


class BoxDataset(PictureExamples):
    """The pictures of an index. An item depends only on (seed, epoch, index), never on who asks for it.

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
        super().__init__(size, exemplar_size, seed, recipe)
        self.index, self.lines = index, read_index(index)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One training example, see `PictureExamples.example`.

        Raises:
            DataError: if its picture or mask cannot be used, or the box lies outside it.
            IndexError: if there are not that many items.
        """
        if not 0 <= index < len(self):  # also what ends a loop over the items
            raise IndexError(f"item {index} of {len(self)}")
        line = self.lines[index]
        return self.example(index, line, f"{self.index}, line {line.number}", self.index.parent.joinpath)


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


FARTHEST = 1e9  # pixels, of an edge of a box


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
    except (ValueError, RecursionError) as error:
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
            or not all(type(edge) in (int, float) and -FARTHEST < edge < FARTHEST for edge in box)
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


def cut(image: np.ndarray, crop: Box) -> np.ndarray:
    """What `crops.crop_image` gives, but without a copy where the crop lies inside the picture."""
    left, top, right, bottom = crop
    if left >= 0 and top >= 0 and right <= image.shape[1] and bottom <= image.shape[0]:
        return image[top:bottom, left:right]
    return crop_image(image, crop)


def average(picture: np.ndarray, side: int) -> np.ndarray:
    """Shrink a picture to a square, each pixel a mean over what it covers and half of that on each side (a triangle).

    `crops.resize` takes the mean over what it covers alone. That looks much the same and takes several times as long:
    OpenCV has fast code for whole factors only, torch for any.

    Args:
        picture: (H, W, 3) uint8.
        side: at most H and W.

    Returns:
        (3, side, side) uint8.
    """
    import torch

    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    return np.asarray(torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)[0])


def signed(channels: np.ndarray) -> np.ndarray:
    """(3, H, W) of [0, 255] to float32 in [-1, 1]."""
    scaled = np.empty(channels.shape, np.float32)
    np.divide(channels, np.float32(127.5), out=scaled)
    scaled -= 1
    return scaled
