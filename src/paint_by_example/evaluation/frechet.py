"""The Fréchet distance of two sets of features, each taken for a Gaussian (arXiv 1706.08500, equation 6).

    d² = |m₁ - m₂|² + tr C₁ + tr C₂ - 2 tr (C₁ C₂)^½

Only the trace of the root is needed, and that is the sum of the roots of the eigenvalues of C₁ C₂. With C₁ = L Lᵀ these
are the eigenvalues of the symmetric Lᵀ C₂ L: no root of a matrix, no complex numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ..errors import UserError
from .statistics import Moments

RESAMPLES = 100  # of the bootstrap, each of which is a whole distance


def frechet_distance(a: Moments, b: Moments) -> float:
    """d², which is what is called FID where the features are Inception's.

    Args:
        a: statistics of one set.
        b: of the other, in the same feature space; the order does not matter.

    Returns:
        A number of at least 0, but for rounding.

    Raises:
        UserError: the spaces have different dimensions, a set has fewer than two pictures, or a number is not finite.
    """
    if a.dimension != b.dimension:
        raise UserError(f"features of {a.dimension} and of {b.dimension} numbers cannot be compared")
    first, second = a.covariance(), b.covariance()
    if not all(np.isfinite(x).all() for x in (a.mean, b.mean, first, second)):
        raise UserError("the features hold numbers that are not finite; were pictures or weights damaged?")
    difference = a.mean - b.mean
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * trace_root(first, second))


def trace_root(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Trace of the root of the product of two covariances (D, D).

    A matrix that is singular, as it is with fewer pictures than features, has no Cholesky factor, and the root of an
    eigenvalue that should be 0 is not: eps becomes eps^½, D times over. Then both are factored by their
    eigenvectors, and the sum of the singular values of the product of the factors is taken, in which nothing is squared
    and so no offset on the diagonal is needed.
    """
    try:
        # In place, of copies: at 2,048 features a matrix has 32 MiB.
        lower = linalg.cholesky(first, lower=True, check_finite=False)
    except linalg.LinAlgError:
        return nuclear(first, second)
    product, _ = linalg.lapack.dsygst(second, lower, itype=2, lower=1)  # L' C2 L, its lower triangle
    values = linalg.eigvalsh(product, check_finite=False, overwrite_a=True)
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    # An eigenvalue within the noise may be of either sign; its root, were it negative, would be imaginary.
    return float(np.sqrt(values).sum()) if values[0] > noise else nuclear(first, second)


def nuclear(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The same through eigenvectors, for singular matrices.

    Raises:
        UserError: one is no covariance: an eigenvalue is negative by more than rounding explains.
    """
    return float(linalg.svdvals(factor(first).T @ factor(second), check_finite=False).sum())


def factor(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """F (D, r) with F Fᵀ = C, of the eigenvalues that are not 0.

    Raises:
        UserError: see `nuclear`.
    """
    values, vectors = linalg.eigh(covariance, check_finite=False)
    noise = len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    if values[0] < -1e3 * noise:
        raise UserError(f"a covariance has the eigenvalue {values[0]:g}; the statistics are damaged")
    kept = values > noise
    scaled: NDArray[np.float64] = vectors[:, kept] * np.sqrt(values[kept])
    return scaled


def bootstrap(features: NDArray[np.floating], reference: Moments, seed: int = 0) -> NDArray[np.float64]:
    """Distances of resampled features to a reference: (`RESAMPLES`,).

    Args:
        features: (n, D).
        reference: is not resampled: it is thought of as the population.
        seed: of the resampling.
    """
    rng = np.random.default_rng(seed)
    root = factor(reference.covariance())
    draws = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        weights = np.bincount(rng.integers(len(features), size=len(features)), minlength=len(features))
        mean = weights @ features / len(features)
        centred = (features - mean) * np.sqrt(weights / (len(features) - 1))[:, None]
        projected = centred @ root  # (n, r): of C₁^½ C₂^½ the smaller way round
        if len(projected) > projected.shape[1]:
            product = projected.T @ projected
            trace = np.sqrt(np.maximum(linalg.eigvalsh(product, overwrite_a=True, check_finite=False), 0)).sum()
        else:
            trace = linalg.svdvals(projected, overwrite_a=True, check_finite=False).sum()
        difference = mean - reference.mean
        total = (centred**2).sum() + np.trace(reference.scatter) / (reference.count - 1)
        draws[number] = difference @ difference + total - 2 * trace
    return draws
