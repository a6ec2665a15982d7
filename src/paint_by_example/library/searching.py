"""Search: the nearest by cosine, exactly, or those that fit a hole in a photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..crops import context_crop, crop_image, mask_bounds
from .entry import Entry
from .index import open_index
from .store import Library

CHUNK = 8192  # rows that are read at once
ROUNDING = 2e-3  # how far the cosine of two vectors in float16 may be off: 2^-11 for each of them, and the sum's own
TINY = np.float32(1e-12)

ASPECT, LIGHT, SIZE = 1.0, 0.1, 0.1  # weights of what speaks against a picture; docs/library.md has their measurement
LUMINANCE = np.array([0.2126, 0.7152, 0.0722])  # of red, green and blue: ITU-R BT.709


@dataclass(frozen=True)
class Found:
    """A picture that was found."""

    entry: Entry
    score: float
    """What it is ranked by, more is better."""
    likeness: float | None
    """Cosine with what was asked for, [-1, 1]; None where nothing was."""


@dataclass(frozen=True)
class Hole:
    """What a mask in a photograph says of the picture that would fit it."""

    aspect: float
    """Width over height."""
    side: int
    """The longer one, pixels."""
    luminance: float
    """Of what is around it, [0, 1]."""

    @classmethod
    def of(cls, photograph: Image.Image, mask: NDArray[np.bool_]) -> Hole:
        """Look at a hole.

        Args:
            photograph: RGB.
            mask: (H, W), True = repaint.

        Raises:
            MaskError: the mask selects nothing.
        """
        left, top, right, bottom = mask_bounds(mask)
        crop = context_crop(mask)
        shown = crop_image(np.asarray(photograph.convert("RGB")), crop)
        kept = ~crop_image(np.repeat(mask[..., None].astype(np.uint8), 3, 2), crop)[..., 0].astype(bool)
        colour = shown[kept if kept.any() else ~kept].mean(0) / 255
        width, height = right - left, bottom - top
        return cls(width / height, max(width, height), float(colour @ LUMINANCE))


class Search:
    """A library, held in memory to be searched; what is added to it later is not seen.

    What all pictures have in common says nothing about which is which, so their mean is taken from all features before
    the cosine. All cosines are computed in float16; those that rounding could have kept out are computed again in
    float64, so that the result is exact. Where there is an index of just these pictures, `nearest` asks that instead,
    unless tags are given, and its result may lack some.

    Args:
        library: to search.
        indexed: use its index, if it has one.
    """

    def __init__(self, library: Library, indexed: bool = True) -> None:
        self.library = library
        self.matrix = library.features()
        table = library.shown()
        self.ids = table[:, 0].astype(np.int64)
        self.sides, self.luminances = table[:, 1:3].max(1), table[:, 4:] @ LUMINANCE
        self.shapes = np.log(table[:, 3])
        found_index = open_index(library, self.ids) if indexed else None
        self.index = None if found_index is None else found_index[0]
        self.centre = self.mean() if found_index is None else found_index[1]

    def mean(self) -> NDArray[np.float64]:
        """What all pictures have in common, (F,)."""
        total = sum((self.matrix[chunk].sum(0, dtype=np.float64) for chunk in self.chunks()), np.zeros(1))
        return np.broadcast_to(total / max(len(self.ids), 1), self.matrix.shape[1:])

    def chunks(self) -> list[NDArray[np.int64]]:
        """Numbers of all pictures, a few at a time."""
        return [self.ids[start : start + CHUNK] for start in range(0, len(self.ids), CHUNK)]

    @cached_property
    def directions(self) -> torch.Tensor:
        """Features less the centre, of length 1, (n, F) float16; it takes reading all of them."""
        directions = torch.empty(len(self.ids), self.matrix.shape[1], dtype=torch.float16)
        for number, chunk in enumerate(self.chunks()):
            rows = self.matrix[chunk] - self.centre.astype(np.float32)
            rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), TINY)
            directions[number * CHUNK : number * CHUNK + len(chunk)] = torch.from_numpy(rows)
        return directions

    def nearest(self, features: NDArray[np.floating], count: int, tags: Sequence[str] = ()) -> list[Found]:
        """The pictures nearest to one, best first.

        Args:
            features: of what to look for, (F,).
            count: how many, at most.
            tags: that a picture must have, all of them.
        """
        rows, cosines = self.nearest_rows(features, count, self.having(tags))
        return self.found(rows, cosines, cosines)

    def nearest_rows(
        self, features: NDArray[np.floating], count: int, among: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Places in `ids` of the nearest, best first, and their cosines, (k,) each.

        Args:
            features: (F,).
            count: k, at most.
            among: (n,), which of `ids` count; all by default.
        """
        if self.index is not None and among is None:
            rows = self.indexed(features, count)
        else:
            cosines = self.approximate(features)
            if among is not None:
                cosines[~among] = -np.inf
            count = min(count, len(cosines) if among is None else int(among.sum()))
            if count < 1:
                return np.zeros(0, np.int64), np.zeros(0)
            least = np.partition(cosines, -count)[-count] - 2 * ROUNDING
            rows = np.flatnonzero(cosines >= least)
        exact = self.cosines(features, rows)
        order = np.argsort(-exact, kind="stable")[:count]
        return rows[order], exact[order]

    def indexed(self, features: NDArray[np.floating], count: int) -> NDArray[np.int64]:
        """Places in `ids` of what the index finds, more than ``count`` and in no order."""
        assert self.index is not None
        found = np.sort(self.index.nearest(self.direction(features), count))
        rows = np.minimum(np.searchsorted(self.ids, found), len(self.ids) - 1)
        return np.asarray(rows[self.ids[rows] == found])  # a damaged file may name pictures that there are not

    def direction(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Features less the centre, of length 1, (F,)."""
        query = features - self.centre
        return np.asarray(query / max(float(np.linalg.norm(query)), float(TINY)))

    def approximate(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Cosines with all pictures to within `ROUNDING`, (n,)."""
        query = self.direction(features)
        with torch.no_grad():
            cosines: NDArray[np.float32] = (self.directions @ torch.from_numpy(query).half()).float().numpy()
        return cosines

    def cosines(self, features: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Cosines with some pictures, (k,), in float64."""
        x, query = self.matrix[self.ids[rows]] - self.centre, features - self.centre
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(query)
        return np.asarray((x @ query) / np.maximum(lengths, float(TINY)))

    def fitting(
        self, hole: Hole, count: int, features: NDArray[np.floating] | None = None, tags: Sequence[str] = ()
    ) -> list[Found]:
        """The pictures that fit a hole best, best first; among those alike where something to be like is given.

        Args:
            hole: to fit.
            count: how many, at most.
            features: of what they should be like, (F,).
            tags: that a picture must have, all of them.
        """
        scores = self.fit(hole)
        likeness = None if features is None else self.approximate(features).astype(np.float64)
        if likeness is not None:
            scores = scores + likeness
        among = self.having(tags)
        if among is not None:
            scores[~among] = -np.inf
        rows = np.argpartition(-scores, count - 1)[:count] if count < len(scores) else np.arange(len(scores))
        rows = rows[np.lexsort((rows, -scores[rows]))]
        rows = rows[np.isfinite(scores[rows])]
        return self.found(rows, scores[rows], None if likeness is None else likeness[rows])

    def fit(self, hole: Hole) -> NDArray[np.float64]:
        """How well each picture fits a hole, (n,): 0 where nothing speaks against it, less where something does.

        The encoder squashes an exemplar to a square, so that one of another aspect is painted out of shape; a darker or
        lighter one than the hole's surroundings stands out; a smaller one shows less detail than is painted.
        """
        shape = np.abs(self.shapes - np.log(hole.aspect))
        light = np.abs(self.luminances - hole.luminance)
        small = np.maximum(np.log2(hole.side / np.maximum(self.sides, 1)), 0)
        return np.asarray(-(ASPECT * shape + LIGHT * light + SIZE * small))

    def worded(self, words: NDArray[np.float32], count: int, tags: Sequence[str] = ()) -> list[Found]:
        """The pictures that words describe best, best first, by the cosine with where each lies among words.

        Args:
            words: (T,), of length 1, by the library's text encoder.
            count: how many, at most.
            tags: that a picture must have, all of them.
        """
        texts = self.library.texts()[: self.matrix.shape[0]]
        cosines = (texts @ words)[self.ids].astype(np.float64)
        counts = np.any(texts != 0, axis=1)[self.ids]
        among = self.having(tags)
        rows = np.flatnonzero(counts if among is None else counts & among)
        rows = rows[np.argsort(-cosines[rows], kind="stable")[:count]]
        return self.found(rows, cosines[rows], cosines[rows])

    def browse(self, count: int, tags: Sequence[str] = (), start: int = 0) -> list[Found]:
        """Pictures in the order they were added.

        Args:
            count: how many, at most.
            tags: that a picture must have, all of them.
            start: how many to pass over.
        """
        among = self.having(tags)
        rows = (np.arange(len(self.ids)) if among is None else np.flatnonzero(among))[start : start + count]
        return self.found(rows, np.zeros(len(rows)), None)

    def total(self, tags: Sequence[str] = ()) -> int:
        """How many pictures there are, or have all of the tags."""
        among = self.having(tags)
        return len(self.ids) if among is None else int(among.sum())

    def features(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """What the encoder said of pictures, (k, F), by their numbers."""
        return np.array(self.matrix[np.asarray(ids, np.int64)])

    def having(self, tags: Sequence[str]) -> NDArray[np.bool_] | None:
        """Which of `ids` have all of the tags, (n,); None if no tag is given."""
        return np.isin(self.ids, sorted(self.library.tagged(tags))) if tags else None

    def found(
        self, rows: NDArray[np.integer], scores: NDArray[np.float64], likeness: NDArray[np.float64] | None
    ) -> list[Found]:
        """Entries of places in `ids`."""
        entries = {entry.id: entry for entry in self.library.entries(int(one) for one in self.ids[rows])}
        return [
            Found(entries[int(self.ids[row])], float(scores[k]), None if likeness is None else float(likeness[k]))
            for k, row in enumerate(rows)
            if int(self.ids[row]) in entries  # it may have been removed since
        ]
