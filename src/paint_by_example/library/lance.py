"""A library in LanceDB: for millions of pictures, on a disk or in an object store, behind the same verbs."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, UserError
from .encoder import Encoder
from .entry import Entry
from .store import SCHEMA, VERSION, Library

if TYPE_CHECKING:
    import pyarrow

SUFFIX = ".lance"
TRAINED = 256  # pictures that an index is made of, at least
FILE = {"path": "string", "bytes": "int64", "mtime_ns": "int64"}
SHOWN = ("id", "sha256", "width", "height", "aspect", "red", "green", "blue", "licence", "files", "tags")


def is_lance(place: str | Path) -> bool:
    """Whether a library of this name is kept by LanceDB: it ends in .lance, or is an address such as s3://bucket/name."""
    return str(place).rstrip("/").endswith(SUFFIX) or "://" in str(place)


def open_library(place: str | Path, encoder: Encoder | None = None) -> Library:
    """Open a library, wherever it is kept, or make it if an encoder is given; see `Library`.

    Args:
        place: a folder; with a name that ends in .lance, or an address such as s3://bucket/name, LanceDB keeps it.
        encoder: of its pictures.
    """
    return LanceLibrary(place, encoder) if is_lance(place) else Library(Path(place), encoder)


class LanceLibrary(Library):
    """A library in LanceDB; see `Library`.

    Its tables are ``pictures``, a row each with its features, files, tags and thumbnail, ``broken`` and ``library``.
    Adding, listing and removing read all but features and thumbnails into SQLite in memory, work on that as on a
    library's own database, and write what changed.
    """

    def __init__(self, place: str | Path, encoder: Encoder | None = None) -> None:
        try:
            import lancedb
            import pyarrow
        except ImportError as error:
            raise DataError(f"the library {place} needs LanceDB; install paint-by-example[library]") from error
        self.folder, self.arrow = Path(place), pyarrow
        self.place = str(place)
        self.fresh: dict[int, NDArray[np.float32]] = {}
        self.texted: dict[int, NDArray[np.float32]] = {}
        with self._errors():
            self.tables: Any = lancedb.connect(self.place)
            if "library" not in self.tables.list_tables().tables:
                if encoder is None:
                    raise DataError(f"there is no library in {place}; make one with pbe library add")
                self._make(encoder)
            self.pictures: Any = self.tables.open_table("pictures")
            found = self.noted()
        if found["version"] != VERSION:
            raise DataError(f"the library {place} is of another version; make it anew with pbe library add")
        self._read(found, encoder)

    def _make(self, encoder: Encoder) -> None:
        arrow = self.arrow
        numbers = {name: arrow.float64() for name in ("aspect", "red", "green", "blue")}
        columns = {
            "id": arrow.int64(),
            "sha256": arrow.string(),
            "width": arrow.int64(),
            "height": arrow.int64(),
            **numbers,
            "licence": arrow.string(),
            "files": arrow.list_(arrow.struct(FILE)),
            "there": arrow.bool_(),
            "tags": arrow.list_(arrow.string()),
            "thumbnail": arrow.binary(),
            "features": arrow.list_(arrow.float32(), encoder.size),
        }
        self.tables.create_table("pictures", schema=arrow.schema(columns), exist_ok=True)
        self.tables.create_table("broken", schema=arrow.schema({**FILE, "reason": "string"}), exist_ok=True)
        self.tables.create_table("library", schema=arrow.schema({"key": "string", "value": "string"}), exist_ok=True)
        values = {"encoder": encoder.sha256, "size": encoder.size, "model": encoder.model, "compat": encoder.compat}
        self.note({"version": VERSION, "count": 0, "total": [0.0] * encoder.size, "summed": 0, **values})

    def noted(self) -> dict[str, Any]:
        """What is known of the library as a whole."""
        rows = self.tables.open_table("library").to_arrow().to_pylist()
        return {row["key"]: json.loads(row["value"]) for row in rows}

    def note(self, values: Mapping[str, Any]) -> None:
        """Change what is known of the library as a whole."""
        rows = self.arrow.Table.from_pylist([{"key": key, "value": json.dumps(one)} for key, one in values.items()])
        table = self.tables.open_table("library")
        table.merge_insert("key").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of a damaged file LanceDB raises whatever it stumbles over, its own panics too
            reason = str(error).strip().partition("\n")[0]
            raise DataError(f"cannot use the library {self.place}: {reason}") from error

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        if "://" in self.place:  # an object store has no locks
            yield
        else:
            with super()._held():
                yield

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """See `Library.writing`; not held in an object store, where one process may write at a time."""
        with super().writing():
            try:
                yield
            finally:
                self.fresh.clear()
                self.texted.clear()

    def close(self) -> None:
        """Let go of what is in memory."""
        if "rows" in vars(self):
            self.rows.close()

    # --- what is in it ------------------------------------------------------------------------------------------------

    @cached_property
    def rows(self) -> sqlite3.Connection:  # type: ignore[override]
        """All but features and thumbnails, in SQLite in memory, which notes what changes."""
        rows = sqlite3.connect(":memory:", check_same_thread=False)
        rows.executescript(SCHEMA)
        rows.execute("pragma recursive_triggers = on")  # so that a row that is replaced counts as deleted
        rows.execute("create table changed (picture integer primary key)")  # -1: the files that are broken
        highest = -1
        for batch in self.pictures.search().select([*SHOWN]).to_batches():
            for one in batch.to_pylist():
                number = one["id"]
                highest = max(highest, number)
                rows.execute(
                    "insert into pictures values (?, ?, ?, ?, ?, ?, ?, ?, ?)", [one[name] for name in SHOWN[:9]]
                )
                files = [(file["path"], number, file["bytes"], file["mtime_ns"]) for file in one["files"]]
                rows.executemany("insert into files values (?, ?, ?, ?)", files)
                rows.executemany("insert into tags values (?, ?)", [(tag, number) for tag in one["tags"]])
        broken = self.tables.open_table("broken").to_arrow().to_pylist()
        rows.executemany("insert into broken values (?, ?, ?, ?)", [tuple(one.values()) for one in broken])
        count = max(self.noted()["count"], highest + 1)
        rows.execute("insert into library values ('count', ?)", (count,))
        for table, column in (("pictures", "id"), ("files", "picture"), ("tags", "picture"), ("broken", "-1")):
            for event, row in (("insert", "new"), ("update", "new"), ("delete", "old")):
                picture = column if column == "-1" else f"{row}.{column}"
                rows.execute(
                    f"create trigger {table}_{event} after {event} on {table}"
                    f" begin insert or ignore into changed values ({picture}); end"
                )
        rows.commit()
        return rows

    def version(self) -> int:
        """See `Library.version`."""
        with self._errors():
            self.pictures.checkout_latest()
            return int(self.pictures.version)

    def find(self, where: str, columns: Sequence[str]) -> pyarrow.Table:
        """Columns of the pictures for which a condition in SQL holds, in the order of their numbers."""
        with self._errors():
            return self.pictures.search().where(where).select([*columns]).to_arrow().sort_by("id")

    def vectors(self, ids: Sequence[int], column: str = "features") -> NDArray[np.float32]:
        """Vectors of pictures, (k, F), in the order of their numbers."""
        found = self.find(f"id in ({', '.join(map(str, ids)) or '-1'})", ("id", column))[column]
        return matrix(found)

    def feature(self, number: int) -> NDArray[np.float32]:
        """See `Library.feature`."""
        return np.array(self.vectors([number])[0])

    def centre(self) -> NDArray[np.float64]:
        """What all pictures have in common, (F,)."""
        noted = self.noted()
        return np.asarray(np.array(noted["total"]) / max(noted["summed"], 1))

    def entries(self, ids: Iterable[int] | None = None) -> Iterator[Entry]:
        """See `Library.entries`."""
        if ids is None:
            yield from super().entries()
            return
        numbers = [int(number) for number in ids]
        found = self.find(f"id in ({', '.join(map(str, numbers)) or '-1'})", SHOWN).to_pylist()
        by_number = {one["id"]: entry_of(one) for one in found}
        yield from (by_number[number] for number in numbers if number in by_number)

    def thumbnail(self, number: int) -> bytes | None:
        """See `Library.thumbnail`."""
        found = self.find(f"id = {number}", ("id", "thumbnail"))["thumbnail"].to_pylist()
        return found[0] if found else None

    def tags(self) -> list[str]:
        """See `Library.tags`."""
        counts = Counter(tag for tags in self.find("there", ("id", "tags"))["tags"].to_pylist() for tag in tags)
        return sorted(counts, key=lambda tag: (-counts[tag], tag))

    def wordless(self) -> set[int]:
        """See `Library.wordless`."""
        return set(self.find("texts is null", ("id",))["id"].to_pylist())

    # --- changes, within `writing` ------------------------------------------------------------------------------------

    def _write_features(self, first: int, rows: NDArray[np.float32]) -> None:
        self.fresh |= {first + number: row for number, row in enumerate(rows)}

    def use_text(self, encoder: Encoder) -> None:
        """See `Library.use_text`."""
        if self.text is not None:
            return self.check_text(encoder)
        with self._errors():
            self.pictures.add_columns(self.arrow.field("texts", self.arrow.list_(self.arrow.float32(), encoder.size)))
            self.note({"text_encoder": encoder.sha256, "text_size": encoder.size, "text_model": encoder.model})
        self.text = encoder

    def put_texts(self, texts: Mapping[int, NDArray[np.float32]]) -> None:
        """See `Library.put_texts`."""
        self.texted |= texts

    def commit(self) -> None:
        """Write the pictures that changed, new ones first: what a kill leaves is mended by adding again."""
        arrow = self.arrow
        with self._errors():
            changed = {one for (one,) in self.rows.execute("select picture from changed")}
            entries = {entry.id: entry for entry in Library.entries(self, sorted(changed))}
            new = [number for number in entries if number in self.fresh]
            kept = [number for number in entries if number not in self.fresh]
            gone = changed - entries.keys() - {-1}
            noted = self.noted()
            total = np.array(noted["total"])
            total += sum((self.fresh[number].astype(np.float64) for number in new), np.zeros(1))
            if gone:
                total -= self.vectors(sorted(gone)).sum(0, dtype=np.float64)
            if new:
                small = dict(self.rows.execute("select picture, webp from thumbnails"))
                table = self._described([entries[number] for number in new])
                table = table.append_column("thumbnail", arrow.array([small[number] for number in new], arrow.binary()))
                table = table.append_column("features", vector_column(arrow, [self.fresh[number] for number in new]))
                self.pictures.add(table)
            if kept:
                self._merge(self._described([entries[number] for number in kept]))
            if self.texted:
                ids = arrow.array(list(self.texted), arrow.int64())
                self._merge(arrow.table({"id": ids, "texts": vector_column(arrow, list(self.texted.values()))}))
            if gone:
                self.pictures.delete(f"id in ({', '.join(map(str, sorted(gone)))})")
            if -1 in changed:
                broken = [
                    dict(zip((*FILE, "reason"), one, strict=True)) for one in self.rows.execute("select * from broken")
                ]
                schema = self.tables.open_table("broken").schema
                self.tables.create_table("broken", arrow.Table.from_pylist(broken, schema), mode="overwrite")
            if changed:
                summed = noted["summed"] + len(new) - len(gone)
                self.note({"count": self.count, "total": total.tolist(), "summed": summed})
            self.rows.execute("delete from changed")
            self.rows.execute("delete from thumbnails")
            self.rows.commit()
            self.fresh.clear()
            self.texted.clear()

    def _merge(self, table: pyarrow.Table) -> None:
        self.pictures.merge_insert("id").when_matched_update_all().execute(table)

    def _described(self, entries: Sequence[Entry]) -> pyarrow.Table:
        """All but thumbnails and vectors."""
        described = []
        for entry in entries:
            files = self.rows.execute("select path, bytes, mtime_ns from files where picture = ?", (entry.id,))
            red, green, blue = entry.colour
            described.append(
                {
                    "id": entry.id,
                    "sha256": entry.sha256,
                    "width": entry.width,
                    "height": entry.height,
                    "aspect": entry.aspect,
                    "red": red,
                    "green": green,
                    "blue": blue,
                    "licence": entry.licence,
                    "files": [dict(zip(FILE, file, strict=True)) for file in files],
                    "there": bool(entry.paths),
                    "tags": list(entry.tags),
                }
            )
        schema = self.pictures.schema
        names = [*SHOWN[:9], "files", "there", "tags"]
        return self.arrow.Table.from_pylist(described, self.arrow.schema([schema.field(name) for name in names]))

    def tidy(self) -> None:
        """See `Library.tidy`: many small writes become one, and an index covers what was added."""
        with self._errors():
            self.pictures.optimize()

    def make_index(self) -> int:
        """Let LanceDB make its indices: of features (inverted lists of product codes) and of numbers.

        Returns:
            How many pictures there are.
        """
        from lancedb.index import BTree, IvfPq

        count = int(self.pictures.count_rows())
        if count < TRAINED:
            raise DataError(f"an index takes at least {TRAINED} pictures, and there are {count}; search without one")
        with self._errors():
            self.pictures.create_index("features", config=IvfPq(distance_type="l2"))
            self.pictures.create_index("id", config=BTree())
        return count


def entry_of(row: Mapping[str, Any]) -> Entry:
    """A picture from its row."""
    return Entry(
        row["id"],
        row["sha256"],
        row["width"],
        row["height"],
        row["aspect"],
        (row["red"], row["green"], row["blue"]),
        row["licence"],
        tuple(sorted(file["path"] for file in row["files"])),
        tuple(row["tags"]),
    )


def vector_column(arrow: Any, rows: Sequence[NDArray[np.float32]]) -> Any:
    """A column of vectors of one size."""
    flat = arrow.array(np.concatenate(rows), arrow.float32())
    return arrow.FixedSizeListArray.from_arrays(flat, len(rows[0]))


def matrix(column: Any) -> NDArray[np.float32]:
    """Vectors of a column, (n, F)."""
    array = column.combine_chunks()
    return np.asarray(array.flatten().to_numpy()).reshape(len(array), array.type.list_size)
