"""What a library is asked, wherever it is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..painter import Painter
from .encoder import Encoder, encode
from .index import write_index
from .lance import LanceLibrary
from .lance_search import LanceSearch
from .searching import Found, Hole, Search
from .store import Library


def open_search(library: Library) -> Search:
    """A search of a library, wherever that is kept."""
    return LanceSearch(library) if isinstance(library, LanceLibrary) else Search(library)


def make_index(library: Library, progress: Callable[[int, int], object] = lambda done, total: None) -> int:
    """Make the index of a library anew; searches use it until pictures are added or go.

    Args:
        library: to index.
        progress: told how many pictures are done, and of how many.

    Returns:
        How many pictures there are.

    Raises:
        DataError: usearch is not installed, another process writes to the library, the disk is full, or there are too
            few pictures.
    """
    with library.writing():
        if isinstance(library, LanceLibrary):
            return library.make_index()
        search = Search(library, indexed=False, dtype=torch.float16)  # the type of its graph
        write_index(library, search.ids, search.centre, search.directions, progress)
    return len(search.ids)


def find_exemplars(
    library: Library,
    count: int,
    *,
    painter: Painter | None = None,
    like: Image.Image | None = None,
    tags: Sequence[str] = (),
    hole: Hole | None = None,
    words: NDArray[np.float32] | None = None,
) -> list[Found]:
    """The query behind the command and the table: pictures that are like one, have tags, fit a hole, or suit words.

    Args:
        library: to search.
        count: how many, at most.
        painter: a model with the library's encoder; needed with ``like`` only.
        like: a picture, RGB.
        tags: all of which a picture must have. With nothing else given, pictures come in the order they were added.
        hole: to fit.
        words: what they should show, (T,), by the library's text encoder; with tags only.

    Raises:
        ModelError: the library was made with another encoder.
    """
    features = None
    if like is not None:
        assert painter is not None
        library.check(Encoder.of(painter))
        features = encode(painter, like)
    search = open_search(library)
    if words is not None:
        return search.worded(words, count, tags)
    if hole is not None:
        return search.fitting(hole, count, features, tags)
    if features is not None:
        return search.nearest(features, count, tags)
    return search.browse(count, tags)
