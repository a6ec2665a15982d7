"""Kernel distances of two sets of features: the squared maximum mean discrepancy under a kernel.

KID (arXiv 1801.01401) has a cubic kernel and no bias, so it may be below 0; CMMD (arXiv 2401.09603) has a Gaussian one.
Both are less demanding than a Fréchet distance where pictures are few: nothing is taken for a Gaussian, and no
covariance is estimated. Blocks of rows are summed up, so that memory does not grow with the square of the sets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .result import Figure, interval

Array = NDArray[np.float64]
Kernel = Callable[[Array, Array], Array]

BLOCK = 512  # rows
RESAMPLES = 200
KID_SCALE = 1000.0  # as KID is usually told
CMMD_SCALE = 1000.0  # as in its authors' code
SIGMA = 10.0  # of CMMD's kernel


def cubic(x: Array, y: Array) -> Array:
    """(n, D) and (m, D) to (n, m): (xᵀy / D + 1)³ (arXiv 1801.01401, section 4)."""
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def gaussian(x: Array, y: Array) -> Array:
    """(n, D) and (m, D) to (n, m): exp(-|x - y|² / 2σ²), σ = 10 (arXiv 2401.09603, section 4.1)."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.asarray(np.exp(-squares / (2 * SIGMA**2)))


def kid(results: NDArray[np.floating], reference: NDArray[np.floating], seed: int = 0) -> Figure:
    """KID x1000 over all pairs: the mean that the usual average over subsets of 1,000 estimates.

    Args:
        results: (n, D) features.
        reference: (m, D).
        seed: of the bootstrap.

    Raises:
        UserError: a set has fewer than two pictures.
    """
    unbiased, _, draws = squared_mmd(results, reference, cubic, seed)
    return interval(KID_SCALE * unbiased, KID_SCALE * draws, len(results))


def cmmd(results: NDArray[np.floating], reference: NDArray[np.floating], seed: int = 0) -> Figure:
    """CMMD: the biased estimate, x1000, on features of unit length, as its authors compute it.

    Args:
        results: (n, D) features of CLIP; published figures are of ViT-L/14 at 336 pixels.
        reference: (m, D).
        seed: of the bootstrap.

    Raises:
        UserError: a set has fewer than two pictures.
    """
    x, y = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (results, reference))
    _, biased, draws = squared_mmd(x, y, gaussian, seed)
    return interval(CMMD_SCALE * biased, CMMD_SCALE * draws, len(results))


def squared_mmd(
    results: NDArray[np.floating],
    reference: NDArray[np.floating],
    kernel: Kernel,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[float, float, Array]:
    """MMD², and what it would have been with other pictures (arXiv 0805.2368, equations 3 and 5).

    Args:
        results: (n, D) features.
        reference: (m, D).
        kernel: rows and rows to their products.
        seed: of the bootstrap, which resamples both sets. A picture that was drawn twice makes no pair with itself:
            otherwise every resample would look more alike than the set.
        resamples: of the bootstrap.

    Returns:
        The unbiased and the biased estimate, and unbiased ones of resamples, (resamples,).

    Raises:
        UserError: a set has fewer than two pictures, or the dimensions differ.
    """
    x, y = results.astype(np.float64), reference.astype(np.float64)
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"cannot compare sets of features of shapes {x.shape} and {y.shape}: at least 2 of one length")
    rng = np.random.default_rng(seed)
    # The first column is all ones: the sets as they are.
    weights = [
        np.column_stack([np.ones(len(one)), rng.multinomial(len(one), np.full(len(one), 1 / len(one)), resamples).T])
        for one in (x, y)
    ]
    (xx, x_diagonal), (yy, y_diagonal) = (
        within(one, kernel, weight) for one, weight in zip((x, y), weights, strict=True)
    )
    n, m = float(len(x)), float(len(y))
    xy = across(x, y, kernel, *weights) / (n * m)
    of_pairs = n**2 - (weights[0] ** 2).sum(0), m**2 - (weights[1] ** 2).sum(0)
    some = (of_pairs[0] > 0) & (of_pairs[1] > 0)  # of a few pictures all draws may be of one, which makes no pair
    own = [
        (total - diagonal)[some] / count[some]
        for total, diagonal, count in zip((xx, yy), (x_diagonal, y_diagonal), of_pairs, strict=True)
    ]
    unbiased = own[0] + own[1] - 2 * xy[some]
    return float(unbiased[0]), float(xx[0] / n**2 + yy[0] / m**2 - 2 * xy[0]), unbiased[1:]


def within(x: Array, kernel: Kernel, weights: Array) -> tuple[Array, Array]:
    """Weighted sums of the kernel over all pairs of (n, D), and over pairs of one with itself: both (resamples,)."""
    diagonal = np.concatenate([np.diagonal(kernel(part, part)) for part in blocks(x)])
    return across(x, x, kernel, weights, weights), diagonal @ weights**2


def across(x: Array, y: Array, kernel: Kernel, of_x: Array, of_y: Array) -> Array:
    """Weighted sums of the kernel over all pairs of (n, D) and (m, D): (resamples,)."""
    total = np.zeros(of_x.shape[1])
    for part, weights in zip(blocks(x), blocks(of_x), strict=True):
        for other, others in zip(blocks(y), blocks(of_y), strict=True):
            total += (weights * (kernel(part, other) @ others)).sum(0)
    return total


def blocks(x: Array) -> list[Array]:
    """Rows in groups of `BLOCK`."""
    return [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
