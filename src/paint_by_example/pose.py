"""People in a picture and how they stand: BlazePose (arXiv 2006.10204), drawn as OpenPose's skeleton of 18 points.

A detector finds faces and, of each, where the middle of the hips is and how far the body reaches. The square around
that, turned upright, goes to a second network that finds 33 points of the body. Both networks lie, Apache-2.0, in the
wheel of mediapipe 0.10.21; it needs not be installed. They are run by OpenVINO (extra ``fast-cpu``).
"""

from __future__ import annotations

import colorsys
import functools
import os
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from .compiled import cache_folder, has_openvino, import_openvino
from .errors import UserError

Floats: TypeAlias = NDArray[np.floating[Any]]

DETECTOR, LANDMARKS = "pose_detection.tflite", "pose_landmark_full.tflite"
GET = "pip download --no-deps mediapipe==0.10.21 -d FOLDER"

DETECTOR_SIDE, LANDMARK_SIDE = 224, 256  # pixels
STRIDES = ((8, 2), (16, 2), (32, 6))  # of the detector's grids, pixels, and the anchors in each of their cells
FACE = 0.4  # least score of a face; the second network looks again
LIKELY = 0.5  # least score of a body, and of a point that is drawn
SHARP = 0.35  # least peak of a point's heat map: for legs below the picture's edge it is flat, though said to be seen
NEAR = 3  # cells of the heat map to each side of a point that say where exactly it is
PASSES = 2  # the second one looks where the first one found the body
SAME = 0.3  # intersection over union from which two faces are one
REACH = 1.25  # side of the square around a body, as a share of twice the distance that the detector tells

NECK = 1  # the one of OpenPose's points that is none of BlazePose's: the middle of the shoulders
FROM_BLAZEPOSE = (0, -1, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
SHOULDERS = (11, 12)
BODY = (33, 34)  # of BlazePose's points: the middle of the hips, and one on the circle around the body
LIMBS = (  # of the skeleton's points; each has the colour of its number
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
DIM = 0.6  # brightness of limbs, as a share of that of points
THICK = 4 / 512  # half the width of a limb and radius of a point, as a share of the picture's shorter side
# eighteen hues around the circle
COLOURS = tuple(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(number / 18, 1, 1)) for number in range(18))


_asking = threading.Lock()  # a compiled network answers one thread at a time


@dataclass(frozen=True)
class Person:
    """A person's points, in OpenPose's order: nose, neck, right arm, left arm, right leg, left leg, eyes, ears."""

    points: Floats
    """(18, 2), x and y in pixels of the picture."""
    visible: Floats
    """(18,), how likely each is to be seen, [0, 1]."""

    def within(self, left: float, top: float, scale: float) -> Person:
        """The same in a part of the picture that starts at (left, top) and is enlarged by a scale."""
        return Person((self.points - np.array([left, top], np.float32)) * np.float32(scale), self.visible)


@dataclass(frozen=True)
class Square:
    """A square around a body, turned so that the body stands upright in it."""

    centre: tuple[float, float]
    """x and y, pixels."""
    side: float
    angle: float
    """By which the body leans to the right, radians."""

    def to_picture(self) -> Floats:
        """What takes (x, y, 1) of the square, both in [0, 1], to pixels of the picture: (2, 3)."""
        cos, sin = np.cos(self.angle) * self.side, np.sin(self.angle) * self.side
        turn = np.array([[cos, -sin], [sin, cos]])
        return np.column_stack([turn, np.array(self.centre) - turn @ (0.5, 0.5)]).astype(np.float32)


def find_people(picture: NDArray[np.uint8], models: str | os.PathLike[str] | None = None) -> list[Person]:
    """Find the people in a picture.

    Args:
        picture: (H, W, 3).
        models: where the networks are, see `find_models`.

    Returns:
        One for each person, the surest first; none where there is nobody.

    Raises:
        UserError: the networks or OpenVINO are not there.
    """
    with _asking:
        return _find_people(picture, *load_models(find_models(models)))


def _find_people(picture: NDArray[np.uint8], detector: Any, landmarks: Any) -> list[Person]:
    height, width = picture.shape[:2]
    around = Square((width / 2, height / 2), max(width, height), 0.0)
    raw = detector([_cut(picture, around, DETECTOR_SIDE)[None] * 2 - 1])
    people = []
    for points in faces(raw[0][0], raw[1][0]):
        square = body_square(points * around.side + np.array(around.centre) - around.side / 2)
        for _ in range(PASSES):
            looked = square
            values, certainty, _, heat, _ = landmarks([_cut(picture, looked, LANDMARK_SIDE)[None]]).values()
            places, visible = refine(values.reshape(-1, 5), heat[0])
            places = np.column_stack([places, np.ones(len(places))]) @ looked.to_picture().T
            square = body_square(places[list(BODY)])
        if float(certainty.item()) >= LIKELY:
            inside = ((places >= 0) & (places < (width, height))).all(1)
            people.append(person(places, np.where(inside, visible, 0)))
    return people


def anchors() -> Floats:
    """Middles of the detector's anchors in the order of its outputs, (2254, 2), x and y in [0, 1]."""
    parts = []
    for stride, count in STRIDES:
        cells = DETECTOR_SIDE // stride
        y, x = np.mgrid[:cells, :cells]
        parts.append(np.stack([x, y], -1).reshape(-1, 2).repeat(count, 0).astype(np.float32) / cells + 0.5 / cells)
    return np.concatenate(parts)


def faces(boxes: Floats, scores: Floats) -> list[Floats]:
    """The detector's outputs to the points that it tells of each body.

    Faces that overlap are one, whose box and points are the mean of theirs, weighted by their scores, as in BlazeFace
    (arXiv 1907.05047, section 3.3).

    Args:
        boxes: (2254, 12): x, y, width and height of a face, then x and y of four points; pixels, and the places
            relative to the anchor's.
        scores: (2254, 1), logits.

    Returns:
        Of each face (4, 2) in [0, 1] of the detector's square; first the middle of the hips, then a point on the circle
        around the body, above it. The surest first.
    """
    likely = sigmoid(scores[:, 0])
    chosen = np.flatnonzero(likely >= FACE)
    chosen = chosen[np.argsort(-likely[chosen], kind="stable")]
    values = boxes[chosen].reshape(-1, 6, 2) / DETECTOR_SIDE
    values[:, [0, 2, 3, 4, 5]] += anchors()[chosen, None]
    weights, found = likely[chosen], []
    while len(values):
        near = overlap(values[0], values) > SAME
        near[0] = True
        found.append(np.average(values[near], axis=0, weights=weights[near])[2:].astype(np.float32))
        values, weights = values[~near], weights[~near]
    return found


def overlap(one: Floats, others: Floats) -> Floats:
    """Intersection over union of a box with others: (k, 2) and (n, k, 2), of which [0] is middle and [1] size; (n,)."""
    low = np.maximum(one[0] - one[1] / 2, others[:, 0] - others[:, 1] / 2)
    high = np.minimum(one[0] + one[1] / 2, others[:, 0] + others[:, 1] / 2)
    shared = np.clip(high - low, 0, None).prod(1)
    return np.asarray(shared / (one[1].prod() + others[:, 1].prod(1) - shared + 1e-9))


def body_square(points: Floats) -> Square:
    """The square around a body, from the detector's points in pixels, (4, 2)."""
    (x, y), (above_x, above_y) = points[:2].tolist()
    distance = float(np.hypot(above_x - x, above_y - y))
    return Square((x, y), 2 * REACH * distance, float(np.arctan2(above_x - x, y - above_y)))


def refine(values: Floats, heat: Floats) -> tuple[Floats, Floats]:
    """The second network's output to places, made exact by its heat maps.

    Args:
        values: (39, 5): x, y and depth in pixels of the network's square, then logits of being seen and of being in the
            picture.
        heat: (64, 64, 39), logits.

    Returns:
        x and y in [0, 1] of the square, (39, 2), and how likely each point is to be seen, (39,).
    """
    side = len(heat)
    places = values[:, :2].astype(np.float64) / LANDMARK_SIDE
    visible = np.where(sigmoid(heat).max((0, 1)) >= SHARP, sigmoid(values[:, 3]), 0).astype(np.float32)
    for number, (x, y) in enumerate(np.floor(places * side).astype(int).tolist()):
        if 0 <= x < side and 0 <= y < side:
            top, left = max(y - NEAR, 0), max(x - NEAR, 0)
            near = sigmoid(heat[top : y + NEAR + 1, left : x + NEAR + 1, number])
            if near.max() >= LIKELY:
                rows, columns = np.indices(near.shape)
                middle = np.array([(columns * near).sum(), (rows * near).sum()]) / near.sum()
                places[number] = (middle + np.array([left, top])) / side
    return places, visible


def sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))))


def person(places: Floats, visible: Floats) -> Person:
    """BlazePose's points, (39, 2) in pixels, and how likely each is to be seen, (39,), to a person."""
    chosen = list(FROM_BLAZEPOSE)
    points, seen = places[chosen].astype(np.float32), visible[chosen].astype(np.float32)
    points[NECK], seen[NECK] = places[list(SHOULDERS)].mean(0), visible[list(SHOULDERS)].min()
    return Person(points, seen)


def draw_people(people: Sequence[Person], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Skeletons on black, as OpenPose draws them: limbs as dim ellipses, then points as discs.

    Args:
        people: in pixels of the drawing.
        size: width and height of the drawing.

    Returns:
        (H, W, 3).
    """
    drawn = np.zeros((size[1], size[0], 3), np.uint8)
    thick = max(THICK * min(size), 1.0)
    fine = 4  # fractional bits of a place
    for one in people:
        seen = one.visible >= LIKELY
        for colour, (start, end) in zip(COLOURS, LIMBS, strict=False):
            if seen[start] and seen[end]:
                along = one.points[end] - one.points[start]
                middle, angle = (one.points[start] + one.points[end]) / 2, np.degrees(np.arctan2(along[1], along[0]))
                axes = (max(round(float(np.hypot(*along)) / 2), 1), max(round(thick), 1))
                centre = tuple(np.rint(middle).astype(int).tolist())
                cv2.ellipse(drawn, centre, axes, float(angle), 0, 360, [round(DIM * value) for value in colour], -1)
        for colour, place in zip(COLOURS, np.where(seen[:, None], one.points, np.nan), strict=True):
            if np.isfinite(place).all():
                x, y = np.rint(place * 2**fine).astype(int).tolist()
                cv2.circle(drawn, (x, y), round(thick * 2**fine), colour, -1, cv2.LINE_8, fine)
    return drawn


# --- the networks -----------------------------------------------------------------------------------------------------


def find_models(given: str | os.PathLike[str] | None = None) -> Path:
    """Where the networks are.

    Args:
        given: mediapipe's wheel, or a folder that holds it or the two networks out of it; the folder where compiled
            networks are kept by default, see `compiled.cache_folder`.

    Returns:
        The wheel, or the folder with the two.

    Raises:
        UserError: they are not there.
    """
    place = cache_folder() if given is None else Path(given)
    if place.is_dir():
        if all((place / name).is_file() for name in (DETECTOR, LANDMARKS)):
            return place
        if wheels := sorted(place.glob("mediapipe-*.whl")):
            return wheels[-1]
    elif place.is_file():
        return place
    name = "--pose-models FOLDER" if given is not None else f"--pose-models FOLDER, or take {place} for FOLDER"
    raise UserError(f"there are no networks for poses in {place}; get them with: {GET}, and give {name}")


@functools.lru_cache(maxsize=1)
def load_models(place: Path) -> tuple[Any, Any]:
    """Detector and landmarks, compiled; each takes a list of one array (1, S, S, 3).

    Raises:
        UserError: OpenVINO is not installed, or what is there cannot be read.
    """
    if not has_openvino():
        raise UserError("the structure pose needs the package openvino; install paint-by-example[fast-cpu]")
    core = import_openvino().Core()
    with tempfile.TemporaryDirectory() as folder:
        compiled = []
        for name in (DETECTOR, LANDMARKS):
            try:
                file = place / name if place.is_dir() else _unpacked(place, name, Path(folder))
                compiled.append(core.compile_model(core.read_model(file), "CPU"))
            except (RuntimeError, OSError, zipfile.BadZipFile, StopIteration) as error:
                raise UserError(f"cannot read {name} from {place}; get it again with: {GET}") from error
    return compiled[0], compiled[1]


def _unpacked(wheel: Path, name: str, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        member = next(one for one in archive.namelist() if one.endswith(f"/{name}"))
        (folder / name).write_bytes(archive.read(member))
    return folder / name


def _cut(picture: NDArray[np.uint8], square: Square, side: int) -> Floats:
    """A square out of a picture, turned upright: (side, side, 3) in [0, 1], black outside the picture."""
    # Middles of pixels: (i + 0.5) / side of the square lies at pixel x - 0.5 of the picture.
    to_picture = square.to_picture()
    back = np.column_stack([to_picture[:, :2] / side, to_picture @ (0.5 / side, 0.5 / side, 1) - 0.5])
    shrink = max(square.side / side / 2, 0)
    smooth = cv2.GaussianBlur(picture, (0, 0), shrink / 2) if shrink > 1 else picture
    cut = cv2.warpAffine(smooth, back, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return cut.astype(np.float32) / 255
