"""How an exemplar's map is moved, turned and stretched until its outlines lie on those of a drawing.

The layers that decode a token say what an object looks like, in the pose that the exemplar shows. Where a drawing says
how it is to stand, the map need not be painted anew: it is laid otherwise (`layout.LayoutUNet.lay`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .harmonise import fill, fill_between
from .images import image_tensor, tensor_image
from .structure import edges, soft_edges

BLURS = (6.0, 3.0, 1.5, 0.7)  # of both drawings, from coarse to fine, pixels of a picture of 128
ROUNDS, ENOUGH = 60, 1e-5  # at each of them at most, and the least gain for another
STRETCH = 1.5  # how much longer or shorter an object becomes in any direction, at most
SHIFT = 0.25  # how far the picture's middle moves at most, as a share of its side
LEAST = 0.45  # correlation below which lines are taken for another thing's
JUDGED = 1.5  # blur at which it is judged whether anything was gained, pixels of a picture of 128

SEEN = 0.1  # of an object's alpha, the least to be laid at all

Affine = NDArray[np.float32]
"""(2, 3): from a place (x, y, 1) of the picture, pixels, to the place of the object that is shown there."""


@dataclass(frozen=True, eq=False)
class Lines:
    """What stood in the holes of B pictures, as drawings, and what surrounds them."""

    drawing: Tensor
    """(B, 1, H, W) in [0, 1] on the CPU, lines white on black; of use within the hole."""
    source: Tensor
    """(B, 3, H, W) in [-1, 1] on the CPU."""
    mask: Tensor
    """(B, 1, H, W) bool on the CPU."""
    share: float = 1.0
    """How far a map goes from its own place to the drawing's."""
    _found: dict[tuple[int, bytes], Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, source: Tensor, mask: Tensor, drawing: Tensor, scale: float) -> Lines | None:
        """Lines as an edit is told them.

        Args:
            source: see the class.
            mask: (B, 1, H, W) in {0, 1}.
            drawing: see the class.
            scale: μ; from 1 on a map goes all the way to the drawing's place, and from 0 down nowhere.

        Returns:
            The lines, or None where they say nothing.
        """
        if scale <= 0:
            return None
        return cls(drawing.detach().cpu().float(), source.detach().cpu().float(), mask.cpu() > 0, min(scale, 1.0))

    def copied(self, count: int) -> Lines:
        """Each picture's so many times, standing together."""
        drawing, source, mask = (x.repeat_interleave(count, 0) for x in (self.drawing, self.source, self.mask))
        return replace(self, drawing=drawing, source=source, mask=mask, _found={})

    def places(self, condition: Tensor, laid: Tensor) -> Tensor:
        """Where maps are to lie; looked for once for each source and token.

        Args:
            condition: (B n, 1, D), their tokens: those of all sources, n times over.
            laid: (B n, 4, H, W), the maps where they lie without lines: colours times alpha, and alpha.

        Returns:
            (B n, 2, 3), see `Affine`.
        """
        rows = []
        for row, token in enumerate(condition.detach().float().cpu().numpy()):
            number = row % len(self.drawing)
            key = number, token.tobytes()
            if key not in self._found:
                self._found[key] = torch.from_numpy(self._place(number, laid[row].detach().float().cpu()))
            rows.append(self._found[key])
        own = torch.eye(2, 3)
        return (own + self.share * (torch.stack(rows) - own)).to(laid.device)

    def _place(self, number: int, laid: Tensor) -> Affine:
        own = np.eye(2, 3, dtype=np.float32)
        mask = self.mask[number, 0].numpy()
        alpha = laid[3:].clamp(0, 1)
        if mask.all() or not mask.any() or float(alpha.max()) < SEEN:
            return own
        source = self.source[number]
        around = image_tensor(fill(tensor_image(source[None])[0], mask))[0]
        (picture,) = tensor_image((laid[:3] + (1 - alpha) * around)[None])
        found = align(picture, self.drawing[number, 0].numpy(), mask)
        return own if found is None else found

    def continued(self) -> list[NDArray[np.uint8]]:
        """The surroundings, continued into the holes between the lines: (H, W, 3) each; see `fill_between`."""
        pictures = zip(tensor_image(self.source), self.mask[:, 0].numpy(), self.drawing[:, 0].numpy(), strict=True)
        return [source if mask.all() else fill_between(source, mask, lines) for source, mask, lines in pictures]


def align(picture: NDArray[np.uint8], drawing: NDArray[np.float32], mask: NDArray[np.bool_]) -> Affine | None:
    """Find how to lay an object, so that the edges of the picture with it follow a drawing.

    The correlation of both is raised from a blurred version to a fine one (ECC: Evangelidis and Psarakis, PAMI 30,
    2008; OpenCV's `findTransformECC`), for the six numbers of an affine transform.

    Args:
        picture: (H, W, 3), with the object as it would be laid without a drawing.
        drawing: (H, W) in [0, 1], lines white on black.
        mask: (H, W), True = the region, within which lines count.

    Returns:
        The transform; None where no better one than the object's own place is found, or the lines are of something
        else: drawn to those, an object is only bent.
    """
    inside = mask.astype(np.uint8)
    # drawn alike: a line of Canny's is one pixel wide and white
    binary = bool(((drawing == 0) | (drawing == 1)).all())
    drawn = np.where(mask, (edges if binary else soft_edges)(picture)[..., 0] / 255, 0).astype(np.float32)
    wanted = np.where(mask, drawing, 0).astype(np.float32)
    scale = max(mask.shape) / 128
    found = np.eye(2, 3, dtype=np.float32)
    for sigma in BLURS:
        before = found.copy()
        try:
            _, better = cv2.findTransformECC(
                blurred(wanted, sigma * scale),
                blurred(drawn, sigma * scale),
                before,
                cv2.MOTION_AFFINE,
                (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ROUNDS, ENOUGH),
                inside,
                1,
            )
        except cv2.error:  # it diverged, or one of both has no lines
            continue
        transform = np.asarray(better, np.float32)
        if moderate(transform, mask.shape):
            found = transform
    sigma = JUDGED * scale
    wanted, drawn = blurred(wanted, sigma), blurred(drawn, sigma)
    size, how = mask.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = np.asarray(cv2.warpAffine(drawn, found, size, flags=how), np.float32)
    reached = correlation(wanted[mask], moved[mask])
    return found if reached > max(LEAST, correlation(wanted[mask], drawn[mask])) else None


def moderate(transform: Affine, shape: tuple[int, ...]) -> bool:
    """Whether an object stays about what and where it is: not mirrored, nor stretched or moved beyond limits."""
    linear = transform[:, :2].astype(np.float64)
    if not np.isfinite(transform).all() or np.linalg.det(linear) <= 0:
        return False
    stretch = np.linalg.svd(linear, compute_uv=False)
    middle = (np.array(shape[::-1]) - 1) / 2
    moved = np.abs(linear @ middle + transform[:, 2] - middle).max()
    return bool(stretch.max() <= STRETCH and stretch.min() >= 1 / STRETCH and moved <= SHIFT * max(shape))


def blurred(x: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
    """By a Gaussian of that deviation, pixels."""
    return np.asarray(cv2.GaussianBlur(x, (0, 0), sigma), np.float32)


def correlation(x: NDArray[np.float32], y: NDArray[np.float32]) -> float:
    """Of two vectors, -1 to 1; 0 where one of them is constant."""
    x, y = x - x.mean(), y - y.mean()
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / length if length else 0.0
