"""Exemplar augmentation: the exemplar must not be a copy of what stood in the hole (arXiv 2211.13227, section 4.1).

Flip, rotation, blur and elastic transform with the probabilities of the authors' code. What the authors call elastic
was an affine warp: at their settings the elastic field moves no pixel by more than 0.016, while three anchor points
move by up to 50 of 224 pixels. Here both are real. Distances are shares of the picture's side, so that they hold at
any resolution; only the blur's kernel is the authors' number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from ..images import Size

FLIP = 0.5  # probabilities
ROTATE = 0.5
BLUR = 0.3
ELASTIC = 0.3
MAX_DEGREES = 20.0
BLUR_KERNELS = (3, 5, 7)  # sides of a box filter, pixels
ANCHOR_SHIFT = 50 / 224  # largest move of an anchor point, as a share of the side
ANCHOR_OFFSET = 74 / 224  # distance of the anchor points from the centre, as a share of the side
ELASTIC_STRENGTH = 0.02  # amplitude of the elastic field, as a share of the side
ELASTIC_SMOOTHNESS = 0.08  # its correlation length, as a share of the side


def augment(
    rng: np.random.Generator,
    exemplar: np.ndarray,
    strength: float = 1.0,
    flip: float = FLIP,
    warps: Sequence[str] = ("affine", "elastic"),
) -> np.ndarray:
    """Flip, rotate, blur and warp an exemplar, each with its own probability.

    Args:
        rng: source of randomness.
        exemplar: (S, S, 3) uint8.
        strength: multiplies angles and distances; 1 is the paper's.
        flip: probability of mirroring.
        warps: what a warped exemplar goes through, of `affine` and `elastic`.

    Returns:
        (S, S, 3) uint8. Where the picture has to reach beyond its border it is mirrored.
    """
    if rng.random() < flip:
        exemplar = np.ascontiguousarray(exemplar[:, ::-1])
    if rng.random() < ROTATE:
        exemplar = rotate(exemplar, strength * rng.uniform(-MAX_DEGREES, MAX_DEGREES))
    if rng.random() < BLUR:
        kernel = int(rng.choice(BLUR_KERNELS))
        exemplar = cv2.blur(exemplar, (kernel, kernel))
    if rng.random() < ELASTIC:
        for warp in warps:
            exemplar = (warp_affine if warp == "affine" else warp_elastic)(rng, exemplar, strength)
    return exemplar


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate about the centre, counter-clockwise.

    Args:
        image: (H, W, 3) uint8.
        degrees: angle.

    Returns:
        As ``image``.
    """
    height, width = image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def warp_affine(rng: np.random.Generator, image: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Move three anchor points around the centre at random and warp the picture with them.

    Args:
        rng: source of randomness.
        image: (H, W, 3) uint8.
        strength: multiplies the distance that anchors move.

    Returns:
        As ``image``.
    """
    height, width = image.shape[:2]
    anchors, moved = draw_anchors(rng, (width, height), strength)
    matrix = cv2.getAffineTransform(anchors.astype(np.float32), moved.astype(np.float32))
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def draw_anchors(rng: np.random.Generator, size: Size, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three points around the centre of a picture, and where they move.

    Args:
        rng: source of randomness.
        size: (width, height) of the picture.
        strength: multiplies the distance that they move.

    Returns:
        Before and after, each (3, 2) float64, (x, y) in pixels.
    """
    width, height = size
    side = min(height, width)
    centre, offset = np.array([width / 2, height / 2]), side * ANCHOR_OFFSET
    anchors = centre + offset * np.array([(1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)])
    return anchors, anchors + rng.uniform(-1, 1, (3, 2)) * side * ANCHOR_SHIFT * strength


def warp_elastic(rng: np.random.Generator, image: np.ndarray, strength: float = 1.0) -> np.ndarray:
    """Move every pixel along a smooth random field (Simard et al., 2003).

    Args:
        rng: source of randomness.
        image: (H, W, 3) uint8.
        strength: multiplies the field; at 1 no pixel moves by more than `ELASTIC_STRENGTH` of the side on an axis.

    Returns:
        As ``image``.
    """
    height, width = image.shape[:2]
    side = min(height, width)
    noise = rng.standard_normal((height, width, 2)).astype(np.float32)
    field = cv2.GaussianBlur(noise, (0, 0), side * ELASTIC_SMOOTHNESS)
    field *= strength * side * ELASTIC_STRENGTH / max(float(np.abs(field).max()), 1e-6)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(image, x + field[..., 0], y + field[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
