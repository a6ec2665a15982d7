"""An index of a library: a graph of near neighbours (HNSW, arXiv 1603.09320), by usearch, instead of all cosines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError
from .store import INDEX, Library

WIDTH = 256  # candidates that a search keeps: more take longer and miss less
CHUNK = 4096  # pictures that are added at once


class Index:
    """Finds nearly always what an exact search finds, and reads little of the library for it.

    Args:
        path: of its file, mapped into memory.
        size: F.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.graph = empty_graph(size)
        self.graph.view(str(path))

    def nearest(self, direction: NDArray[np.floating], count: int) -> NDArray[np.int64]:
        """Numbers of the pictures whose directions are nearest to one, (k,), k being more than ``count``.

        Args:
            direction: of what is looked for, less the centre, of length 1, (F,).
            count: how many are wanted.
        """
        return np.asarray(self.graph.search(direction.astype(np.float32), max(2 * count, WIDTH)).keys, np.int64)


def empty_graph(size: int) -> Any:
    """A graph of float16 vectors without any in it.

    Raises:
        ImportError: usearch is not installed.
    """
    from usearch.index import Index as Graph

    return Graph(ndim=size, metric="ip", dtype="f16", connectivity=16, expansion_add=128, expansion_search=WIDTH)


def write_index(
    library: Library,
    ids: NDArray[np.int64],
    centre: NDArray[np.float64],
    directions: torch.Tensor,
    progress: Callable[[int, int], object],
) -> None:
    """Write the index of a library that is held for writing.

    Args:
        library: to index.
        ids: numbers of its pictures, (n,).
        centre: that was taken from their features, (F,).
        directions: what is left of each, of length 1, (n, F) float16.
        progress: told how many pictures are done, and of how many.

    Raises:
        DataError: usearch is not installed, or the disk is full.
    """
    try:
        graph = empty_graph(len(centre))
    except ImportError as error:
        raise DataError("an index needs usearch; install paint-by-example[library]") from error
    for start in range(0, len(ids), CHUNK):
        graph.add(ids[start : start + CHUNK], directions[start : start + CHUNK].numpy())
        progress(min(start + CHUNK, len(ids)), len(ids))
    beside = library.folder / f"{INDEX}.partial"
    try:
        graph.save(str(beside))
    except Exception as error:  # of usearch's own
        raise DataError(f"cannot write {beside}: {error}; make room and run the same command again") from error
    beside.replace(library.folder / INDEX)
    library.note_index(ids_hash(ids), centre, (library.folder / INDEX).stat().st_size)


def open_index(library: Library, ids: NDArray[np.int64]) -> tuple[Index, NDArray[np.float64]] | None:
    """The index of just these pictures and their centre, (F,); None if there is none, or it is of others.

    A file of another length than was noted is none: usearch would read beyond its end. Whether its bytes are those that
    were written is not looked at, because that takes reading all of it.
    """
    noted, path = library.noted_index(), library.folder / INDEX
    if noted is None or noted[0] != ids_hash(ids) or not path.exists():
        return None
    _, centre, size = noted
    if (
        centre.shape != (library.encoder.size,)
        or not np.isfinite(centre).all()
        or size not in (None, path.stat().st_size)
    ):
        return None
    try:
        return Index(path, library.encoder.size), centre
    except (ImportError, RuntimeError):  # not installed, or the file is damaged: an exact search needs neither
        return None


def ids_hash(ids: NDArray[np.int64]) -> str:
    """A hash that says which pictures there are."""
    return hashlib.sha256(np.ascontiguousarray(ids, "<i8").tobytes()).hexdigest()
