"""What an edit did outside the mask, where it should have done nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]

IDENTICAL = 100.0  # dB, in place of an infinite PSNR; one level in one of a million values is 108


def changed_outside(source: Pixels, result: Pixels, mask: Mask) -> float:
    """Share of the pixels outside the mask that are not bit for bit the source's: [0, 100].

    Args:
        source: (H, W, 3).
        result: (H, W, 3).
        mask: (H, W), True = repaint. Where nothing is outside, nothing is changed.
    """
    outside = ~mask
    changed = (source != result).any(2) & outside
    return 100.0 * float(changed.sum()) / max(int(outside.sum()), 1)


def psnr_outside(source: Pixels, result: Pixels, mask: Mask) -> float:
    """Peak signal-to-noise ratio outside the mask, dB, at most `IDENTICAL`; arguments as in `changed_outside`."""
    difference = source[~mask].astype(np.float64) - result[~mask]
    error = float((difference**2).mean()) if difference.size else 0.0
    return IDENTICAL if error == 0 else min(10 * math.log10(255**2 / error), IDENTICAL)


def ssim_outside(source: Pixels, result: Pixels, mask: Mask) -> float:
    """Mean structural similarity of the pixels outside the mask: [-1, 1], arguments as in `changed_outside`.

    Windows near the edge reach into the mask; there both pictures show the source, so that what was painted does not
    count. The windows are Gaussian, σ = 1.5, as in Wang et al. (2004).

    Raises:
        ValueError: the picture is smaller than a window of 11 pixels.
    """
    from skimage.metrics import structural_similarity

    if mask.all():
        return 1.0
    kept = np.where(mask[..., None], source, result)
    compare: Any = structural_similarity  # has no types
    _, values = compare(
        source, kept, channel_axis=2, data_range=255, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    return float(values[~mask].mean())
