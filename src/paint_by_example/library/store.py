"""The library's folder: rows in SQLite beside a matrix of features, of which as many rows count as SQLite says."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError, ModelError, PictureError
from ..images import load_exemplar
from ..inputs import Encoded
from ..record import content_hash
from .encoder import Encoder
from .entry import Entry, NewPicture

DATABASE, MATRIX, TEXTS, INDEX, LOCK = "library.db", "features.f32", "texts.f32", "index.usearch", ".lock"
VERSION = 1

SCHEMA = """
create table library (key text primary key, value) without rowid;
create table pictures (
    id integer primary key, sha256 text not null unique, width integer not null, height integer not null,
    aspect real not null, red real not null, green real not null, blue real not null, licence text);
create table thumbnails (picture integer primary key, webp blob not null);
create table tags (tag text not null, picture integer not null, primary key (tag, picture)) without rowid;
create table files (
    path text primary key, picture integer not null, bytes integer not null, mtime_ns integer not null) without rowid;
create index files_of_pictures on files (picture);
create index tags_of_pictures on tags (picture);
create table broken (
    path text primary key, bytes integer not null, mtime_ns integer not null, reason text not null) without rowid;
"""


class Library:
    """An opened library. Adding and removing happen within `writing`.

    Args:
        folder: of the library.
        encoder: makes the library if there is none; otherwise it has to be the one that it was made with.

    Raises:
        DataError: there is no library and no encoder to make one, or it cannot be read.
        ModelError: it was made with another encoder.
    """

    def __init__(self, folder: Path, encoder: Encoder | None = None) -> None:
        self.folder, self.place = folder, str(folder)
        if not (folder / DATABASE).exists():
            if encoder is None:
                raise DataError(f"there is no library in {folder}; make one with pbe library add")
            self._make(encoder)
        with self._reading():
            # By one thread at a time, but not always the same one: a server's.
            self.rows = sqlite3.connect(folder / DATABASE, timeout=30, check_same_thread=False)
            self.rows.execute("pragma synchronous = full")
            found = dict(self.rows.execute("select key, value from library"))
            if found["version"] != VERSION:
                raise DataError(f"the library {folder} is of another version; make it anew with pbe library add")
            self._read(found, encoder)

    def _read(self, found: Mapping[str, Any], encoder: Encoder | None) -> None:
        """Take over what the library says of its encoders."""
        if not isinstance(found["size"], int) or found["size"] < 1:
            raise ValueError(f"features of {found['size']} numbers")
        self.encoder = Encoder(*(found[name] for name in ("encoder", "size", "model", "compat")))
        self.text: Encoder | None = None
        if "text_encoder" in found:
            self.text = Encoder(found["text_encoder"], found["text_size"], found["text_model"], None)
        if encoder is not None:
            self.check(encoder)

    def _make(self, encoder: Encoder) -> None:
        """Write an empty database beside its place and rename it, so that there is all of it or nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the library {self.place}: {error.strerror}") from error
        with self._held(), self._errors():
            if (self.folder / DATABASE).exists():
                return
            beside = self.folder / f"{DATABASE}.partial"
            beside.unlink(missing_ok=True)
            rows = sqlite3.connect(beside)
            rows.executescript(SCHEMA)
            values = {
                "version": VERSION,
                "count": 0,
                "encoder": encoder.sha256,
                "size": encoder.size,
                "model": encoder.model,
                "compat": encoder.compat,
            }
            rows.executemany("insert into library values (?, ?)", values.items())
            rows.commit()
            rows.close()
            beside.replace(self.folder / DATABASE)
            rows = sqlite3.connect(self.folder / DATABASE)
            rows.execute("pragma journal_mode = wal")  # readers and the writer do not wait for each other
            rows.close()

    def check(self, encoder: Encoder) -> None:
        """Raises a `ModelError` if pictures were encoded by another encoder than this."""
        if encoder.sha256 != self.encoder.sha256:
            compat = f" with compat {self.encoder.compat}" if self.encoder.compat else ""
            raise ModelError(
                f"the library {self.place} was made by the exemplar encoder of the model {self.encoder.model}{compat},"
                f" which {encoder.model} does not have; name that model, or make a library of its own for this one"
            )

    def text_encoder(self) -> Encoder:
        """What put pictures among words; a `ModelError` where nothing did."""
        if self.text is None:
            raise ModelError(
                f"the library {self.place} cannot be searched by text; run pbe library add --text-encoder MODEL with"
                " its folders, MODEL being a CLIP model"
            )
        return self.text

    def check_text(self, encoder: Encoder) -> None:
        """Raises a `ModelError` if pictures were put among words by another text encoder than this, or by none."""
        made = self.text_encoder()
        if encoder.sha256 != made.sha256:
            raise ModelError(
                f"the library {self.place} was made with the text encoder {made.model}, which {encoder.model} is not;"
                " name that one, or none"
            )

    def close(self) -> None:
        """Let go of the database."""
        self.rows.close()

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot use the library {self.place}: {reason}") from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Says of a database that holds what nobody wrote there that it is damaged."""
        with self._errors():
            try:
                yield
            except (TypeError, ValueError, LookupError, OverflowError) as error:
                raise DataError(
                    f"the library {self.place} is damaged ({error}); make it anew with pbe library add"
                ) from error

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        with self._errors(), (self.folder / LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it with the process
            except BlockingIOError:
                raise DataError(f"another process is writing to the library {self.place}; wait for it") from None
            yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the library for writing.

        Raises:
            DataError: another process does, or what is written cannot be.
        """
        with self._held():
            try:
                yield
            finally:
                self.rows.rollback()  # of what was not committed

    # --- what is in it ------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Rows of the matrix, those of removed pictures among them."""
        with self._reading():
            count = int(self.rows.execute("select value from library where key = 'count'").fetchone()[0])
            if count < 0:
                raise ValueError(f"{count} pictures")
            return count

    def version(self) -> int:
        """A number that is another one once another process has changed the library."""
        with self._errors():
            return int(self.rows.execute("pragma data_version").fetchone()[0])

    def features(self) -> NDArray[np.float32]:
        """All rows of the matrix, (n, F), mapped from the file.

        Raises:
            DataError: the file is shorter than it was.
        """
        count, size, path = self.count, self.encoder.size, self.folder / MATRIX
        if count == 0:
            return np.zeros((0, size), np.float32)
        if not path.exists() or path.stat().st_size < 4 * count * size:
            raise DataError(f"{path} is cut short; make the library anew with pbe library add")
        return np.memmap(path, np.float32, "r", shape=(count, size))

    def feature(self, number: int) -> NDArray[np.float32]:
        """The row of a picture, (F,)."""
        return np.array(self.features()[number])

    def wordless(self) -> set[int]:
        """Numbers of the pictures that words do not find."""
        return set(np.flatnonzero(~np.any(self.texts() != 0, axis=1)).tolist())

    def texts(self) -> NDArray[np.float32]:
        """Where all pictures lie among words, (n, T), mapped from the file; zeros where that was not asked for.

        Raises:
            DataError: the file is shorter than it was.
        """
        count, path = self.count, self.folder / TEXTS
        if self.text is None or count == 0:
            return np.zeros((count, 0 if self.text is None else self.text.size), np.float32)
        if not path.exists() or path.stat().st_size < 4 * count * self.text.size:
            raise DataError(f"{path} is cut short; make the library anew with pbe library add")
        return np.memmap(path, np.float32, "r", shape=(count, self.text.size))

    def noted_index(self) -> tuple[str, NDArray[np.float64], int | None] | None:
        """Which pictures the index is of, their centre, (F,), and the bytes of its file, which older ones lack."""
        with self._reading():
            found = dict(self.rows.execute("select key, value from library where key like 'index_%'"))
            if not found:
                return None
            return found["index_of"], np.frombuffer(found["index_centre"], "<f8"), found.get("index_bytes")

    def shown(self) -> NDArray[np.float64]:
        """Id, width, height, aspect, red, green, blue of the pictures that are in some file, by id, (n, 7)."""
        with self._reading():
            found = self.rows.execute(
                "select id, width, height, aspect, red, green, blue from pictures"
                " where id in (select picture from files) order by id"
            ).fetchall()
            table = np.array(found, np.float64).reshape(-1, 7)
            if not (np.isfinite(table).all() and (table[:, 3] > 0).all() and (table[:, 0] >= 0).all()):
                raise ValueError("a picture's numbers make no sense")
            if len(table) and table[-1, 0] >= self.count:
                raise ValueError(f"picture {table[-1, 0]:.0f} has no features")
            return table

    def entries(self, ids: Iterable[int] | None = None) -> Iterator[Entry]:
        """Pictures, all in the order they came in, or some in the order asked for; those that are gone are left out."""
        with self._reading():
            every = "select id from pictures order by id"
            numbers = [one for (one,) in self.rows.execute(every)] if ids is None else ids
        for number in numbers:
            if (entry := self._entry(int(number))) is not None:
                yield entry

    def _entry(self, number: int) -> Entry | None:
        with self._reading():
            row = self.rows.execute("select * from pictures where id = ?", (number,)).fetchone()
            if row is None:
                return None
            number, sha256, width, height, aspect, red, green, blue, licence = row
            paths = self.rows.execute("select path from files where picture = ? order by path", (number,))
            tags = self.rows.execute("select tag from tags where picture = ? order by tag", (number,))
            return Entry(
                number,
                str(sha256),
                int(width),
                int(height),
                float(aspect),
                (float(red), float(green), float(blue)),
                None if licence is None else str(licence),
                tuple(str(path) for (path,) in paths),
                tuple(str(tag) for (tag,) in tags),
            )

    def thumbnail(self, number: int) -> bytes | None:
        """A picture in small, WebP; None where there is none of this number."""
        with self._reading():
            row = self.rows.execute("select webp from thumbnails where picture = ?", (number,)).fetchone()
            return None if row is None or not isinstance(row[0], bytes) else row[0]

    def exemplar(self, entry: Entry) -> Encoded:
        """A picture to edit with, which is not encoded again.

        Raises:
            PictureError: none of its files holds it any more.
        """
        for path in entry.paths:
            with contextlib.suppress(PictureError):
                if content_hash(load_exemplar(path)) == entry.sha256:
                    return Encoded(path, torch.from_numpy(self.feature(entry.id)))
        raise PictureError(
            f"picture {entry.id} of the library {self.place} is in none of its files any more"
            f" ({', '.join(entry.paths) or 'none is left'}); run pbe library add again"
        )

    def broken(self) -> list[tuple[str, str]]:
        """Files that could not be used: path and reason."""
        with self._reading():
            return list(self.rows.execute("select path, reason from broken order by path"))

    def tags(self) -> list[str]:
        """All tags, those of the most pictures first."""
        with self._reading():
            found = self.rows.execute("select tag from tags group by tag order by count(*) desc, tag")
            return [str(tag) for (tag,) in found]

    def tagged(self, tags: Sequence[str]) -> set[int]:
        """Numbers of the pictures that have all of the tags."""
        having = "select picture from tags where tag = ?"
        with self._reading():
            return set.intersection(*({int(one) for (one,) in self.rows.execute(having, (tag,))} for tag in tags))

    # --- changes, within `writing` ------------------------------------------------------------------------------------

    def append(self, pictures: Sequence[NewPicture], features: Sequence[NDArray[np.float32]]) -> list[int]:
        """Append pictures; they count after `commit`. Gives their numbers."""
        if not pictures:
            return []
        first, size = self.count, self.encoder.size
        rows = np.stack(features).astype("<f4")
        if rows.shape[1] != size:
            raise DataError(f"features of {rows.shape[1]} numbers were given to a library of {size}")
        with self._errors():
            self._write_features(first, rows)
            numbers = list(range(first, first + len(pictures)))
            for number, one in zip(numbers, pictures, strict=True):
                values: tuple[Any, ...] = (number, one.sha256, one.width, one.height, one.aspect, *one.colour, None)
                self.rows.execute("insert into pictures values (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
                self.rows.execute("insert into thumbnails values (?, ?)", (number, one.thumbnail))
            self.rows.execute("update library set value = ? where key = 'count'", (first + len(pictures),))
        return numbers

    def _write_features(self, first: int, rows: NDArray[np.float32]) -> None:
        """Write rows beyond those that count; they are on the disk before the database says that they do."""
        descriptor = os.open(self.folder / MATRIX, os.O_WRONLY | os.O_CREAT, 0o666)
        with open(descriptor, "wb", buffering=0) as file:
            file.seek(4 * first * self.encoder.size)
            body = memoryview(rows.tobytes())
            while body:
                body = body[file.write(body) :]
            os.fsync(file.fileno())
        if self.text is not None:
            self._write_texts(first, [], first + len(rows))

    def use_text(self, encoder: Encoder) -> None:
        """Keep where pictures lie among words, from now on.

        Raises:
            ModelError: it does already, by another encoder.
        """
        if self.text is not None:
            return self.check_text(encoder)
        values = {"text_encoder": encoder.sha256, "text_size": encoder.size, "text_model": encoder.model}
        with self._errors():
            (self.folder / TEXTS).unlink(missing_ok=True)
            self.text = encoder
            self._write_texts(self.count, [], self.count)
            self.rows.executemany("insert into library values (?, ?)", values.items())
        self.commit()

    def put_texts(self, texts: Mapping[int, NDArray[np.float32]]) -> None:
        """Keep where pictures lie among words, (T,) each, by their numbers."""
        with self._errors():
            self._write_texts(self.count, list(texts.items()), self.count)

    def _write_texts(self, first: int, texts: Sequence[tuple[int, NDArray[np.float32]]], count: int) -> None:
        """Write rows, with zeros from ``first`` to ``count``: what an interrupted write left there is gone."""
        assert self.text is not None
        descriptor = os.open(self.folder / TEXTS, os.O_RDWR | os.O_CREAT, 0o666)
        with open(descriptor, "r+b", buffering=0) as file:
            for length in (first, count):
                file.truncate(4 * length * self.text.size)
            for number, row in texts:
                file.seek(4 * number * self.text.size)
                file.write(row.astype("<f4").tobytes())
            os.fsync(file.fileno())

    def note_index(self, pictures: str, centre: NDArray[np.float64], size: int) -> None:
        """Note of which pictures the index is, their centre, and the bytes of its file."""
        values = {"index_of": pictures, "index_centre": centre.astype("<f8").tobytes(), "index_bytes": size}
        with self._errors():
            self.rows.executemany("insert or replace into library values (?, ?)", values.items())
        self.commit()

    def commit(self) -> None:
        """Make changes last."""
        with self._errors():
            self.rows.commit()

    def tidy(self) -> None:
        """What is worth doing after many changes: nothing here."""

    def remove(self, numbers: Iterable[int]) -> int:
        """Take pictures out, their files stay where they are. Gives how many there were.

        Their rows of the matrix are left unused.
        """
        removed = 0
        with self.writing(), self._errors():
            for number in numbers:
                removed += self.rows.execute("delete from pictures where id = ?", (number,)).rowcount
                for table in ("thumbnails", "tags", "files"):
                    self.rows.execute(f"delete from {table} where picture = ?", (number,))
            self.commit()
        return removed

    def named(self, path: Path) -> list[int]:
        """Numbers of the pictures in a file, or in a folder and those below it."""
        place = os.path.abspath(path)
        below = place.rstrip(os.sep) + os.sep
        found = self.rows.execute(
            "select distinct picture from files where path = ? or substr(path, 1, ?) = ? order by picture",
            (place, len(below), below),
        )
        return [number for (number,) in found]

    def missing(self) -> list[int]:
        """Numbers of the pictures whose files are gone."""
        found = self.rows.execute("select id from pictures where id not in (select picture from files) order by id")
        return [number for (number,) in found]
