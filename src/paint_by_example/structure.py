"""What stood in the region, as a drawing: maps of a picture's structure, white on black as ControlNet takes them.

All are (H, W, 3) uint8 with three equal channels. Lines are as wide in every picture, so maps are drawn at the size at
which the network sees the picture. The skeletons of people, which are in colour, are drawn by `pose`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from .errors import UserError
from .images import Picture

StructureKind: TypeAlias = Literal["edges", "soft-edges", "pose", "sketch"]
KINDS: tuple[StructureKind, ...] = get_args(StructureKind)

BLUR = 1.0  # pixels, before edges are looked for
STRONG = 0.9  # share of pixels whose gradient is below Canny's high threshold
LOW = 0.4  # Canny's low threshold, as a share of the high one
FAINTEST = 20.0  # the least high threshold, in Sobel's units: a step of 8 grey levels
SCALES = (1.0, 2.0, 4.0)  # of soft edges, pixels
BRIGHTEST = 0.95  # share of the soft edges' pixels that are not at the limit of white
WEAKEST = 0.02  # strength of a soft edge below which there is none in any picture: a step of 4 grey levels
LINE = 1.0  # deviation of a soft line, pixels


@dataclass(frozen=True)
class Structure:
    """What an edit is to keep of what stood in its region."""

    kind: StructureKind
    sketch: Picture | None = None
    """Of a sketch, the drawing: a picture of the source's size."""
    models: str | os.PathLike[str] | None = None
    """Of a pose, where the models are: see `pose.find_models`."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"unknown structure {self.kind!r}; choose one of {', '.join(KINDS)}")
        if (self.kind == "sketch") != (self.sketch is not None):
            raise UserError("the structure sketch needs a drawing, and the others take none")
        if self.models is not None and self.kind != "pose":
            raise UserError(f"the structure {self.kind} needs no models; they go with pose")


def parse_structure(text: str, models: str | os.PathLike[str] | None = None) -> Structure:
    """Reads a structure from the command line.

    Args:
        text: edges, soft-edges, pose, or sketch=FILE.
        models: see `Structure.models`.

    Raises:
        UserError: it is none of these.
    """
    kind, given, drawing = text.partition("=")
    if kind not in KINDS:
        raise UserError(f"unknown structure {text!r}; choose one of edges, soft-edges, pose, sketch=FILE")
    if (kind == "sketch") != bool(drawing):
        raise UserError(f"the structure {text!r} cannot be; it is edges, soft-edges, pose or sketch=FILE")
    return Structure(kind, drawing if given else None, models)


def as_structure(given: Structure | StructureKind) -> Structure:
    """A kind or a structure as a structure."""
    return given if isinstance(given, Structure) else Structure(given)


def gradients(picture: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int32]]:
    """Sobel's responses to a picture's grey, a little blurred: across, down, and their absolute sum, (H, W) each."""
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), BLUR)
    dx, dy = (np.asarray(cv2.Sobel(grey, cv2.CV_16S, *order), np.int16) for order in ((1, 0), (0, 1)))
    return dx, dy, np.abs(dx.astype(np.int32)) + np.abs(dy)


def edges(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Canny's edges (PAMI 8, 1986), one pixel wide, with thresholds that follow from the picture's own gradients.

    So a dark or hazy picture has as many as a bright one.

    Args:
        picture: (H, W, 3).

    Returns:
        (H, W, 3), {0, 255}.
    """
    dx, dy, strength = gradients(picture)
    high = max(float(np.quantile(strength, STRONG)), FAINTEST)
    return as_rgb(cv2.Canny(dx, dy, LOW * high, high))


def soft_edges(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contours in grey, the brighter the clearer: of all colours, and at several scales, so that texture is faint.

    The structure tensors of all channels and scales are added up (Di Zenzo, CVGIP 33, 1986; the gradient at scale σ
    counts σ times, Lindeberg, IJCV 30, 1998). The root of the larger eigenvalue is the contour's strength, and its
    eigenvector the direction in which only maxima are kept.

    Args:
        picture: (H, W, 3).

    Returns:
        (H, W, 3), [0, 255].
    """
    xx, xy, yy = (np.zeros(picture.shape[:2], np.float32) for _ in range(3))
    for scale in SCALES:
        smooth = cv2.GaussianBlur(picture.astype(np.float32) / 255, (0, 0), scale)
        dx, dy = (scale * cv2.Scharr(smooth, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1)))
        xx, xy, yy = xx + (dx * dx).sum(2), xy + (dx * dy).sum(2), yy + (dy * dy).sum(2)
    strength = np.sqrt((xx + yy + np.hypot(xx - yy, 2 * xy)) / 2)
    angle = np.arctan2(2 * xy, xx - yy) / 2
    thin = np.where(is_maximum(strength, angle), strength, 0).astype(np.float32)
    found = thin[thin > 0]
    if not found.size or float(found.max()) < WEAKEST:
        return as_rgb(np.zeros(picture.shape[:2], np.uint8))
    thin = np.minimum(thin / max(float(np.quantile(found, BRIGHTEST)), WEAKEST), 1)
    across = cv2.getGaussianKernel(8 * round(LINE) + 1, LINE).max()  # what the middle of a straight line keeps
    soft = cv2.GaussianBlur(thin, (0, 0), LINE) / across
    return as_rgb(np.rint(255 * np.minimum(soft, 1)).astype(np.uint8))


def is_maximum(strength: NDArray[np.float32], angle: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a value is not below those one pixel further to either side.

    Args:
        strength: (H, W).
        angle: (H, W), of the direction in which to compare, radians.

    Returns:
        (H, W).
    """
    y, x = np.indices(strength.shape, dtype=np.float32)
    dx, dy = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    ahead, behind = (
        cv2.remap(strength, x + sign * dx, y + sign * dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for sign in (1, -1)
    )
    return np.asarray((strength > ahead) & (strength >= behind))


def sketch(drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A user's drawing, light on dark; one that is mostly light, as on paper, is inverted.

    Args:
        drawing: (H, W, 3).

    Returns:
        (H, W, 3), [0, 255].
    """
    grey = cv2.cvtColor(drawing, cv2.COLOR_RGB2GRAY)
    return as_rgb(255 - grey if np.median(grey) > 127 else grey)


def as_rgb(grey: NDArray[Any]) -> NDArray[np.uint8]:
    """(H, W) as (H, W, 3)."""
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)
