"""The exemplar library of ``--library``: looked through and searched, a search at a time."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from PIL import Image

from ..errors import PictureError
from ..images import load_exemplar
from ..library import Encoder, Found, Hole, Search, TextEncoder, encode, find_words, open_library, open_search
from .browsing import TYPES, NotThere
from .messages import AboutLibrary, LibraryPage, LibraryPicture

if TYPE_CHECKING:
    from ..pipeline import PaintByExamplePipeline

RANKED = 1000  # pictures that a search ranks, at most
TAGS = 100  # of the most pictures, that clients are told

Ranking: TypeAlias = Callable[[Search, int], list[Found]]
"""Makes of a search and a number that many pictures, best first."""


class Exemplars:
    """A library that clients may search. What is added to it meanwhile is found too.

    Args:
        folder: of the library, or its address.
        local_files_only: never ask the hub for the model of its encoder.

    Raises:
        DataError: there is none.
    """

    def __init__(self, folder: str | Path, local_files_only: bool = False) -> None:
        self.library = open_library(folder)
        self.local_files_only = local_files_only
        self.lock = threading.Lock()
        self.searched: tuple[int, Search] | None = None
        self.encoder: PaintByExamplePipeline | None = None
        self.text_encoder: TextEncoder | None = None

    def about(self) -> AboutLibrary:
        """What is in it."""
        with self.lock:
            total, tags = self._search().total(), self.library.tags()[:TAGS]
            return AboutLibrary(pictures=total, tags=tags, text=self.library.text is not None)

    def browse(self, tags: Sequence[str], start: int, count: int) -> LibraryPage:
        """Pictures in the order they were added."""
        with self.lock:
            search = self._search()
            return page(search.browse(count, tags, start), search.total(tags))

    def rank(self, ranking: Ranking, tags: Sequence[str], start: int, count: int) -> LibraryPage:
        """Pictures from the best on, of `RANKED`.

        Raises:
            UserError: the ranking cannot be made.
        """
        with self.lock:
            search = self._search()
            total = min(search.total(tags), RANKED)
            return page(ranking(search, min(start + count, RANKED))[start:], total)

    def like_one(self, number: int, tags: Sequence[str]) -> Ranking:
        """Those like a picture of the library.

        Raises:
            NotThere: there is no such picture, once it is asked for.
        """

        def ranking(search: Search, count: int) -> list[Found]:
            if next(self.library.entries([number]), None) is None:
                raise NotThere(f"there is no picture {number} in the library")
            return search.nearest(search.features([number])[0], count, tags)

        return ranking

    def like(self, exemplar: Image.Image, tags: Sequence[str]) -> Ranking:
        """Those like a picture from elsewhere. The first time, the encoder's model is loaded, on the CPU."""

        def ranking(search: Search, count: int) -> list[Found]:
            return search.nearest(encode(self._model(), exemplar), count, tags)

        return ranking

    def fitting(self, hole: Hole, exemplar: Image.Image | None, tags: Sequence[str]) -> Ranking:
        """Those that fit a hole, and are like a picture if there is one."""

        def ranking(search: Search, count: int) -> list[Found]:
            features = None if exemplar is None else encode(self._model(), exemplar)
            return search.fitting(hole, count, features, tags)

        return ranking

    def worded(self, text: str, tags: Sequence[str]) -> Ranking:
        """Those that words describe. The first time, the text encoder is loaded, on the CPU."""

        def ranking(search: Search, count: int) -> list[Found]:
            if self.text_encoder is None:
                self.text_encoder = TextEncoder(self.library.text_encoder().model, self.local_files_only)
            return search.worded(find_words(self.library, text, self.text_encoder), count, tags)

        return ranking

    def thumbnail(self, number: int) -> bytes:
        """A picture in small, WebP.

        Raises:
            NotThere: there is no such picture.
        """
        with self.lock:
            small = self.library.thumbnail(number)
        if small is None:
            raise NotThere(f"there is no picture {number} in the library")
        return small

    def picture(self, number: int) -> tuple[bytes, str]:
        """A picture's file and its media type; what browsers do not show is sent as PNG.

        Raises:
            NotThere: there is no such picture, or its file holds it no longer.
        """
        with self.lock:
            entry = next(self.library.entries([number]), None)
            if entry is None:
                raise NotThere(f"there is no picture {number} in the library")
            try:
                path = Path(str(self.library.exemplar(entry).picture))
            except PictureError as error:
                raise NotThere(f"the file of picture {number} has changed or is gone; run pbe library add") from error
        with Image.open(path) as opened:
            kind = TYPES.get(opened.format or "", "")
        if kind and kind != "image/tiff":
            return path.read_bytes(), kind
        file = io.BytesIO()
        load_exemplar(path).save(file, "PNG")
        return file.getvalue(), "image/png"

    def close(self) -> None:
        """Let go of the library."""
        with self.lock:
            self.library.close()

    def _search(self) -> Search:
        version = self.library.version()
        if self.searched is None or self.searched[0] != version:
            self.searched = version, open_search(self.library)
        return self.searched[1]

    def _model(self) -> PaintByExamplePipeline:
        from ..pipeline import load_pipeline

        if self.encoder is None:
            made = self.library.encoder
            pipeline = load_pipeline(made.model, "cpu", compat=made.compat, local_files_only=self.local_files_only)
            self.library.check(Encoder.of(pipeline))
            self.encoder = pipeline
        return self.encoder


def page(found: Sequence[Found], total: int) -> LibraryPage:
    """What clients are told of pictures; not where they lie."""
    pictures = [
        LibraryPicture(
            id=one.entry.id,
            name=Path(one.entry.paths[0]).name,
            width=one.entry.width,
            height=one.entry.height,
            licence=one.entry.licence,
            tags=list(one.entry.tags),
            score=one.score,
            likeness=one.likeness,
        )
        for one in found
        if one.entry.paths  # its files may have gone since
    ]
    return LibraryPage(total=total, pictures=pictures)
