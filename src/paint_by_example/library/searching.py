"""Search: the nearest by cosine, exactly, or those that fit a hole in a photograph."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..crops import context_crop, crop_image, mask_bounds
from .entry import Entry
from .index import open_index
from .store import Library

CHUNK = 4096  # rows that are read at once, and of which a type is timed
FIRST_PASS = (torch.bfloat16, torch.float16, torch.float32)  # types that all cosines may be computed in
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


def rounding(dtype: torch.dtype, size: int) -> float:
    """How far the product of two vectors of length 1 may be off that are rounded to a type and summed in float32.

    With u, half the distance of 1 to the next number of the type: both vectors are off by at most u of their length,
    and the sum, which the type holds too, by another u. The sum of ``size`` products in float32 is off by at most
    ``size`` times 2^-24; as much again is left for what float16 cannot tell from 0, and for reaching length 1.

    Args:
        dtype: of vectors and product.
        size: F.
    """
    u = torch.finfo(dtype).eps / 2
    return (1 + u) ** 3 - 1 + (size + 8) * 2**-23


@cache
def quickest(size: int) -> torch.dtype:
    """The type of `FIRST_PASS` in which this machine multiplies a matrix with a vector soonest.

    Which that is differs between processors. A type whose products are off by more than `rounding` is none: all
    summands are positive here, so that a sum in a narrow type stops growing.

    Args:
        size: F.
    """
    x = torch.rand(CHUNK, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    x /= x.norm(dim=1, keepdim=True)
    given = {dtype: (x.to(dtype), x[0].to(dtype)) for dtype in FIRST_PASS}
    for dtype, (rows, query) in list(given.items()):
        if float(((rows @ query).double() - x @ x[0]).abs().max()) > rounding(dtype, size):  # warms up as well
            del given[dtype]
    turns = [{dtype: seconds(*one) for dtype, one in given.items()} for _ in range(5)]  # which other work meets alike
    return min(given, key=lambda dtype: min(turn[dtype] for turn in turns), default=torch.float32)


def seconds(rows: torch.Tensor, query: torch.Tensor) -> float:
    """How long a product takes."""
    since = time.perf_counter()
    torch.mv(rows, query)
    return time.perf_counter() - since


class Search:
    """A library, held in memory to be searched; what is added to it later is not seen.

    What all pictures have in common says nothing about which is which, so their mean is taken from all features before
    the cosine. All cosines are computed in a type that is quick; those that rounding could have kept out are computed
    again in float64, so that the result is exact. Where there is an index of just these pictures, `nearest` asks that
    instead, unless tags are given, and its result may lack some.

    Args:
        library: to search.
        indexed: use its index, if it has one.
        dtype: in which all cosines are computed, one of `FIRST_PASS`; the quickest here by default.
    """

    def __init__(self, library: Library, indexed: bool = True, dtype: torch.dtype | None = None) -> None:
        self.library = library
        self.dtype = dtype
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
        """Features less the centre, of length 1, (n, F), in the first pass's type; it takes reading all of them."""
        size = self.matrix.shape[1]
        directions = torch.empty(len(self.ids), size, dtype=self.dtype or quickest(size))
        for number, chunk in enumerate(self.chunks()):
            rows = self.matrix[chunk] - self.centre  # in float64: the centre may be much longer than what is left
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
            rows = self.candidates(self.approximate(features), count, among)
        exact = self.cosines(features, rows)
        order = np.argsort(-exact, kind="stable")[:count]
        return rows[order], exact[order]

    def candidates(
        self, scores: NDArray[np.floating], count: int, among: NDArray[np.bool_] | None
    ) -> NDArray[np.int64]:
        """Places in `ids` that may be among the best, rising, (k,), if cosines in ``scores`` are off by rounding.

        Args:
            scores: (n,), more is better.
            count: how many are wanted.
            among: (n,), which count; all by default.
        """
        rows = np.arange(len(scores)) if among is None else np.flatnonzero(among)
        if count < 1 or count >= len(rows):
            return rows[: max(count, 0)]
        scores = scores[rows]
        least = np.partition(scores, -count)[-count] - 2 * rounding(self.directions.dtype, self.matrix.shape[1])
        return np.asarray(rows[scores >= least])

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
        """Cosines with all pictures to within `rounding`, (n,)."""
        query = torch.from_numpy(self.direction(features)).to(self.directions.dtype)
        with torch.no_grad():
            cosines: NDArray[np.float32] = torch.mv(self.directions, query).float().numpy()
        return cosines

    def cosines(self, features: NDArray[np.floating], rows: NDArray[np.integer]) -> NDArray[np.float64]:
        """Cosines with some pictures, (k,), in float64; equal pictures have equal ones, whatever else is asked for."""
        x, query = self.matrix[self.ids[rows]] - self.centre, features - self.centre
        lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(query)
        # A sum a row: the last bits of a matrix product depend on where in it a row stands.
        return np.asarray((x * query).sum(1) / np.maximum(lengths, float(TINY)))

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
        scores, among = self.fit(hole), self.having(tags)
        if features is None:
            rows = np.arange(len(scores)) if among is None else np.flatnonzero(among)
            rows = rows[np.argsort(-scores[rows], kind="stable")[:count]]
            return self.found(rows, scores[rows], None)
        rows = self.candidates(scores + self.approximate(features), count, among)
        likeness = self.cosines(features, rows)
        scores = scores[rows] + likeness
        order = np.argsort(-scores, kind="stable")[:count]
        return self.found(rows[order], scores[order], likeness[order])

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
