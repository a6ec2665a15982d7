"""Search of a library in LanceDB, where it is kept: what is near comes from LanceDB, how near from here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .lance import LanceLibrary
from .searching import LUMINANCE, TINY, Found, Hole, Search

CANDIDATES = 1000  # that are found by distance, to be ranked by cosine
PROBES = 50  # lists of the index that a search looks through


class LanceSearch(Search):
    """Searches where the library is: the nearest by distance, ranked by the cosine that `Search` ranks by.

    Args:
        library: to search.
    """

    def __init__(self, library: LanceLibrary) -> None:
        self.library: LanceLibrary = library
        self.centre = library.centre()

    def nearest(self, features: NDArray[np.floating], count: int, tags: Sequence[str] = ()) -> list[Found]:
        """See `Search.nearest`."""
        ids = self._close("features", features, max(2 * count, CANDIDATES), tags)
        cosines = self.likeness(features, ids)
        order = np.argsort(-cosines, kind="stable")[:count]
        return self.listed(ids[order], cosines[order], cosines[order])

    def likeness(self, features: NDArray[np.floating], ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cosines with some pictures, by their numbers in rising order, (k,)."""
        x, query = self.library.vectors(ids.tolist()) - self.centre, features - self.centre
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(query)
        return np.asarray((x @ query) / np.maximum(lengths, float(TINY)))

    def fitting(
        self, hole: Hole, count: int, features: NDArray[np.floating] | None = None, tags: Sequence[str] = ()
    ) -> list[Found]:
        """See `Search.fitting`; with features, among those that are nearest or fit best."""
        table = self.library.find(condition(tags), ("id", "width", "height", "aspect", "red", "green", "blue"))
        ids, width, height, aspect, *colour = (column.to_numpy() for column in table.columns)
        self.sides, self.luminances = np.maximum(width, height), np.stack(colour, 1) @ LUMINANCE
        self.shapes = np.log(aspect)
        scores = self.fit(hole)
        if features is None:
            rows = np.argsort(-scores, kind="stable")[:count]
            return self.listed(ids[rows], scores[rows], None)
        wanted = max(2 * count, CANDIDATES)
        close = self._close("features", features, wanted, tags)
        rows = np.union1d(np.argsort(-scores, kind="stable")[:wanted], np.searchsorted(ids, close))
        likeness = self.likeness(features, ids[rows])
        scores = scores[rows] + likeness
        order = np.argsort(-scores, kind="stable")[:count]
        return self.listed(ids[rows][order], scores[order], likeness[order])

    def worded(self, words: NDArray[np.float32], count: int, tags: Sequence[str] = ()) -> list[Found]:
        """See `Search.worded`."""
        ids = self._close("texts", words, count, tags)
        cosines = (self.library.vectors(ids.tolist(), "texts") @ words).astype(np.float64)
        order = np.argsort(-cosines, kind="stable")
        return self.listed(ids[order], cosines[order], cosines[order])

    def browse(self, count: int, tags: Sequence[str] = (), start: int = 0) -> list[Found]:
        """See `Search.browse`."""
        ids = self.library.find(condition(tags), ("id",))["id"].to_numpy()[start : start + count]
        return self.listed(ids, np.zeros(len(ids)), None)

    def total(self, tags: Sequence[str] = ()) -> int:
        """See `Search.total`."""
        return int(self.library.pictures.count_rows(condition(tags)))

    def features(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """See `Search.features`."""
        return np.stack([self.library.feature(number) for number in ids])

    def _close(self, column: str, vector: NDArray[np.floating], count: int, tags: Sequence[str]) -> NDArray[np.int64]:
        """Numbers of the nearest by Euclidean distance, rising, (k,)."""
        with self.library._errors():
            asked = self.library.pictures.search(vector.astype(np.float32), vector_column_name=column)
            where = condition(tags) if column == "features" else f"{condition(tags)} and texts is not null"
            asked = asked.distance_type("l2").where(where, prefilter=True).limit(count).nprobes(PROBES)
            found = asked.refine_factor(2).select(["id", "_distance"]).to_arrow()
        return np.sort(found["id"].to_numpy())

    def listed(
        self, ids: NDArray[np.integer], scores: NDArray[np.float64], likeness: NDArray[np.float64] | None
    ) -> list[Found]:
        """Entries of numbers."""
        entries = {entry.id: entry for entry in self.library.entries(map(int, ids))}
        return [
            Found(entries[int(number)], float(scores[k]), None if likeness is None else float(likeness[k]))
            for k, number in enumerate(ids)
            if int(number) in entries
        ]


def condition(tags: Sequence[str]) -> str:
    """In SQL: a picture has a file and all of the tags."""
    quoted = (tag.replace("'", "''") for tag in tags)
    return " and ".join(["there", *(f"array_has(tags, '{tag}')" for tag in quoted)])
