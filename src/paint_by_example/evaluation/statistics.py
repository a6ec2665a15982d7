"""Mean and covariance of features as they come: constant memory, and two may be merged into that of both."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file, save_file

from ..errors import UserError


class Moments:
    """Number, mean and scatter of vectors, in float64.

    Parts are merged as in Chan, Golub and LeVeque (1979), which loses no digits where the mean is far from zero.

    Args:
        dimension: D, of the vectors.
    """

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(dimension)
        """(D,)"""
        self.scatter: NDArray[np.float64] = np.zeros((dimension, dimension))
        """(D, D), the sum over vectors of the products of their differences from the mean."""

    @classmethod
    def of(cls, parts: ArrayLike | Iterable[NDArray[np.floating]]) -> Moments:
        """Moments of features (n, D), or of such in several parts.

        Raises:
            UserError: there is not a single vector.
        """
        moments: Moments | None = None
        for part in [parts] if isinstance(parts, np.ndarray) else parts:  # type: ignore[union-attr]
            part = np.asarray(part)
            moments = cls(part.shape[1]) if moments is None else moments
            moments.update(part)
        if moments is None:
            raise UserError("there are no pictures to take statistics of")
        return moments

    @property
    def dimension(self) -> int:
        """D."""
        return len(self.mean)

    def update(self, features: ArrayLike) -> None:
        """Add vectors: (n, D)."""
        x = np.asarray(features, np.float64)
        if not len(x):
            return
        part = Moments(self.dimension)
        part.count, part.mean = len(x), x.mean(0)
        centred = x - part.mean
        part.scatter = centred.T @ centred
        self.merge(part)

    def merge(self, other: Moments) -> None:
        """Add what another has seen."""
        count = self.count + other.count
        if not other.count:
            return
        difference = other.mean - self.mean
        self.scatter += other.scatter
        self.scatter += np.outer(difference, difference) * (self.count * other.count / count)
        self.mean = self.mean + difference * (other.count / count)
        self.count = count

    def covariance(self) -> NDArray[np.float64]:
        """(D, D), with n - 1 below the line as in `numpy.cov`.

        Raises:
            UserError: fewer than two vectors were seen.
        """
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 pictures, got {self.count}")
        return self.scatter / (self.count - 1)

    def save(self, path: str | os.PathLike[str], space: str) -> None:
        """Write to a safetensors file, beside its place first.

        Args:
            path: the file; its folder is made.
            space: name of the feature space, kept in the file.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        tensors = {"mean": self.mean, "scatter": self.scatter, "count": np.array(self.count)}
        save_file(tensors, beside, metadata={"space": space})
        beside.replace(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], space: str) -> Moments:
        """Read what `save` wrote.

        Raises:
            UserError: there is no such file, it holds something else, or another feature space's.
        """
        found = read_space(path)
        if found != space:
            raise UserError(f"the statistics in {path} are of {found}, not of {space}")
        tensors = load_file(path)
        moments = cls(len(tensors["mean"]))
        moments.count, moments.mean, moments.scatter = int(tensors["count"]), tensors["mean"], tensors["scatter"]
        return moments


def read_space(path: str | os.PathLike[str]) -> str:
    """The feature space that a file's statistics are of.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            if {"mean", "scatter", "count"} <= set(file.keys()):
                return str((file.metadata() or {}).get("space"))
        problem = "it holds no mean, scatter and count"
    except (OSError, SafetensorError) as error:
        problem = str(error)
    raise UserError(f"cannot read statistics from {path}: {problem}")
