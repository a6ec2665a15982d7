"""Pictures into a library: found in folders, read, encoded once each, however many files hold them."""

from __future__ import annotations

import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import DataError, UserError
from ..images import READABLE_SUFFIXES, load_exemplar
from ..painter import Painter
from ..record import content_hash
from .encoder import Encoder, encode
from .entry import NewPicture
from .lance import open_library
from .store import Library
from .text import TextEncoder

THUMBNAIL = 128  # longer side, pixels
EVEN = 10  # of 255: how far the pixels of an even border may lie apart
SECONDS = 5.0  # between commits, at most: what a kill costs
READERS = 2  # threads that read files ahead of the encoder
AHEAD = 8  # pictures read ahead


@dataclass
class Added:
    """What became of the files."""

    added: int = 0
    """Pictures that are new."""
    known: int = 0
    """Files that were there before, unchanged."""
    duplicates: int = 0
    """Files with a picture that another file holds too."""
    moved: int = 0
    """Files with a picture whose file of before is gone."""
    broken: int = 0
    """Files that cannot be used."""
    missing: int = 0
    """Files of before that are gone."""


@dataclass(frozen=True)
class Candidate:
    """A file that is to be read."""

    path: str
    bytes: int
    mtime_ns: int


def add_pictures(
    folder: str | Path,
    painter: Painter,
    places: Sequence[Path],
    *,
    tags: Sequence[str] = (),
    licence: str | None = None,
    text: TextEncoder | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Added:
    """Add all pictures in files and folders; what is in the library already is not encoded again.

    Stopped at any moment and run again it goes on.

    Args:
        folder: of the library, or its address; made if it is not there.
        painter: a model, whose encoder the library is made with.
        places: files, and folders, which are looked through to their bottom.
        tags: for all pictures in these places, in addition to those they have.
        licence: of all pictures in these places; what it was before if not given.
        text: so that pictures in these places are found by words, those that were added without it too.
        progress: told how many files are done, and of how many.

    Raises:
        DataError: a place is not there, another process writes to the library, or the disk is full.
        ModelError: the library was made with another encoder, or text encoder.
    """
    for place in places:
        if not place.exists():
            raise DataError(f"there is no {place}; name pictures, or folders of them")
    with open_library(folder, Encoder.of(painter)) as library, library.writing():
        if text is not None:
            library.use_text(text.encoder)
        addition = Addition(library, painter, [os.path.abspath(place) for place in places], tags, licence, text)
        outcome = addition.run(progress)
        library.tidy()
        return outcome


@dataclass
class Addition:
    """Files on their way into a library."""

    library: Library
    painter: Painter
    places: Sequence[str]
    tags: Sequence[str]
    licence: str | None
    text: TextEncoder | None = None
    outcome: Added = field(default_factory=Added)
    waiting: dict[str, tuple[NewPicture, NDArray[np.float32]]] = field(default_factory=dict)
    texts: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """Where pictures lie among words, that were read since the last commit, by their content hashes."""
    wordless: set[int] = field(default_factory=set)
    """Numbers of pictures that words do not find yet."""
    files: list[tuple[Candidate, str]] = field(default_factory=list)
    """Files that were read since the last commit, with their content hashes."""

    def run(self, progress: Callable[[int, int], object]) -> Added:
        """Read what is new, note what is gone."""
        rows = self.library.rows
        kept = {
            path: (size, time_ns) for path, size, time_ns in rows.execute("select path, bytes, mtime_ns from files")
        }
        bad = {
            path: (size, time_ns) for path, size, time_ns in rows.execute("select path, bytes, mtime_ns from broken")
        }
        if self.text is not None:
            self.wordless = self.library.wordless()
            for path, number in rows.execute("select path, picture from files"):
                if number in self.wordless:
                    del kept[path]  # to be read again
        found = list(find_files(self.places))
        new = []
        for one in found:
            state = (one.bytes, one.mtime_ns)
            if kept.get(one.path) == state:
                self.outcome.known += 1
            elif bad.get(printable(one.path)) == state:
                self.outcome.broken += 1
            else:
                new.append(one)
        progress(len(found) - len(new), len(found))
        last = time.monotonic()
        for number, (one, read) in enumerate(read_ahead(new), len(found) - len(new) + 1):
            self.take(one, read)
            if time.monotonic() - last > SECONDS:
                self.flush()
                last = time.monotonic()
            progress(number, len(found))
        self.flush()
        seen = {printable(one.path) for one in found}
        self.forget(seen)
        self.label(seen)
        return self.outcome

    def covers(self, path: str) -> bool:
        """Whether a file lies in one of the places."""
        return any(path == place or path.startswith(place.rstrip(os.sep) + os.sep) for place in self.places)

    def take(self, one: Candidate, read: Future[tuple[Image.Image, NewPicture]]) -> None:
        """Encode a picture that is new; note a file that cannot be used."""
        rows = self.library.rows
        try:
            one.path.encode()
            picture, described = read.result()
            known = rows.execute("select id from pictures where sha256 = ?", (described.sha256,)).fetchone()
            if known is None and described.sha256 not in self.waiting:
                self.waiting[described.sha256] = described, encode(self.painter, picture)
            wordless = (known is None or known[0] in self.wordless) and described.sha256 not in self.texts
            if self.text is not None and wordless:
                self.texts[described.sha256] = self.text.picture(picture)
        except (UserError, UnicodeEncodeError) as error:
            reason = str(error) if isinstance(error, UserError) else "its name is not UTF-8; rename it"
            path = printable(one.path)
            rows.execute("insert or replace into broken values (?, ?, ?, ?)", (path, one.bytes, one.mtime_ns, reason))
            rows.execute("delete from files where path = ?", (path,))
            self.outcome.broken += 1
        else:
            self.files.append((one, described.sha256))

    def number(self, sha256: str) -> int:
        """Of a picture that is in the library."""
        found = self.library.rows.execute("select id from pictures where sha256 = ?", (sha256,)).fetchone()
        return int(found[0])

    def flush(self) -> None:
        """Bring what was read since the last time to the disk."""
        rows = self.library.rows
        described = [one for one, _ in self.waiting.values()]
        self.library.append(described, [features for _, features in self.waiting.values()])
        if self.texts:
            by_number = {self.number(sha256): row for sha256, row in self.texts.items()}
            self.library.put_texts(by_number)
            self.wordless -= by_number.keys()
        for one, sha256 in self.files:
            number = self.number(sha256)
            others = [
                path
                for (path,) in rows.execute("select path from files where picture = ?", (number,))
                if path != one.path
            ]
            gone = next((path for path in others if not os.path.exists(path)), None)
            if gone is not None:
                rows.execute("delete from files where path = ?", (gone,))
                self.outcome.moved += 1
            elif others:
                self.outcome.duplicates += 1
            elif sha256 in self.waiting:
                self.outcome.added += 1
            else:
                self.outcome.known += 1  # touched but not changed, or back again
            rows.execute(
                "insert or replace into files values (?, ?, ?, ?)", (one.path, number, one.bytes, one.mtime_ns)
            )
            rows.execute("delete from broken where path = ?", (one.path,))
        self.library.commit()
        self.waiting.clear()
        self.texts.clear()
        self.files.clear()

    def forget(self, seen: set[str]) -> None:
        """Take out files that are gone; a picture that no file holds stays, in case it comes back."""
        rows = self.library.rows
        for (path,) in rows.execute("select path from files").fetchall():
            if self.covers(path) and path not in seen:
                rows.execute("delete from files where path = ?", (path,))
                self.outcome.missing += 1
        for (path,) in rows.execute("select path from broken").fetchall():
            if self.covers(path) and path not in seen:
                rows.execute("delete from broken where path = ?", (path,))
        self.library.commit()

    def label(self, paths: set[str]) -> None:
        """Give tags and licence to all pictures in the places."""
        rows = self.library.rows
        if self.tags or self.licence is not None:
            for path, number in rows.execute("select path, picture from files").fetchall():
                if path in paths:
                    rows.executemany("insert or ignore into tags values (?, ?)", [(tag, number) for tag in self.tags])
                    if self.licence is not None:
                        rows.execute("update pictures set licence = ? where id = ?", (self.licence, number))
            self.library.commit()


def printable(path: str) -> str:
    """A path as the database can hold it, whatever its bytes."""
    return path.encode(errors="backslashreplace").decode()


def find_files(places: Sequence[str]) -> Iterator[Candidate]:
    """Pictures in files and folders, each once, by their names' suffixes; sorted within each place."""
    seen = set()
    for place in places:
        if os.path.isdir(place):
            paths = sorted(
                os.path.join(top, name)
                for top, _, names in os.walk(place)
                for name in names
                if name.lower().endswith(READABLE_SUFFIXES)
            )
        else:
            paths = [place]
        for path in paths:
            try:
                status = os.stat(path)
            except OSError:  # gone since, or a link to nowhere
                continue
            if path not in seen:
                seen.add(path)
                yield Candidate(path, status.st_size, status.st_mtime_ns)


def read_ahead(files: Sequence[Candidate]) -> Iterator[tuple[Candidate, Future[tuple[Image.Image, NewPicture]]]]:
    """Read pictures in threads, a few ahead of who encodes them."""
    with ThreadPoolExecutor(READERS) as threads:
        under_way: deque[tuple[Candidate, Future[Any]]] = deque()
        try:
            for one in files:
                under_way.append((one, threads.submit(read_picture, one.path)))
                if len(under_way) > AHEAD:
                    yield under_way.popleft()
            while under_way:
                yield under_way.popleft()
        finally:
            for _, read in under_way:
                read.cancel()


def read_picture(path: str) -> tuple[Image.Image, NewPicture]:
    """A picture as an edit would load it, and what the library keeps of it.

    Raises:
        PictureError: it cannot be used.
    """
    picture = load_exemplar(path)
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "WEBP", quality=80)
    aspect, colour = describe(small, picture.width / picture.height)
    described = NewPicture(content_hash(picture), picture.width, picture.height, aspect, colour, file.getvalue())
    return picture, described


def describe(small: Image.Image, aspect: float) -> tuple[float, tuple[float, float, float]]:
    """Aspect and mean colour of what a picture shows, without an even border.

    Args:
        small: the picture, in small.
        aspect: of the whole picture.

    Returns:
        Width over height, and red, green and blue in [0, 1].
    """
    pixels = np.asarray(small, np.float32)
    height, width = pixels.shape[:2]
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(border, axis=0)
    shown = np.abs(pixels - ground).max(2) > EVEN
    even = (np.abs(border - ground).max(1) <= EVEN).mean() > 0.9
    if even and shown.any():
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        across, down = columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]
        aspect *= float(across / width) / float(down / height)
        pixels = pixels[shown]
    red, green, blue = (float(value) / 255 for value in pixels.reshape(-1, 3).mean(0))
    return aspect, (red, green, blue)
