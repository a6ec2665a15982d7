"""A table of edits, an edit a row: CSV, JSON lines or Parquet.

Columns are ``source``, ``mask`` or ``box``, ``exemplar`` or ``library`` (with ``like`` and ``tag``), and every setting
of `Editor.edit` under its own name; ``structure`` may also be ``sketch=FILE``. Paths are relative to the table's
folder. Several masks, boxes, exemplars or tags are a list, or stand with ``;`` between them.
"""

from __future__ import annotations

import csv
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..crops import parse_box
from ..edit import Editor
from ..errors import DataError, UserError
from ..images import Box
from ..presets import parse_interval, parse_switch
from ..structure import parse_structure

PICTURES = ("source", "mask", "box", "exemplar")
QUERY = ("library", "like", "tag")
KINDS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "bool": parse_switch,
    "tuple[float, float]": parse_interval,
}
WANTED: dict[Callable[[Any], Any], str] = {parse_interval: "two numbers as in 0.2-1", parse_switch: "yes or no"}
SETTINGS: dict[str, Callable[[Any], Any]] = {
    name: next((kind for word, kind in KINDS.items() if str(parameter.annotation).startswith(word)), str)
    for name, parameter in inspect.signature(Editor.edit).parameters.items()
    if name not in ("self", "on_step", *PICTURES)
}
"""Settings of an edit and their types, as `Editor.edit` declares them."""
COLUMNS = (*PICTURES, *QUERY, *SETTINGS)


@dataclass(frozen=True)
class Query:
    """Asks a library for an exemplar: one that is like a picture, or without one that fits the hole."""

    library: str
    like: str | None
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """An edit that is asked for."""

    number: int
    """In the table, from 1."""
    source: str
    masks: tuple[str, ...]
    boxes: tuple[Box, ...]
    exemplars: tuple[str, ...]
    """Paths, as they can be opened from here. One exemplar for all regions, or one for each."""
    settings: dict[str, Any]
    """What `Editor.edit` is told beside the pictures."""
    query: Query | None = None
    """Finds the exemplar, where none is named."""
    sketch: str | None = None
    """Path of the drawing, where that is the structure."""

    @property
    def where(self) -> list[str | Box]:
        """Of each region the mask's path, or the box."""
        return [*self.masks, *self.boxes]


def read_table(path: Path) -> list[Row | tuple[int, str]]:
    """Read a table.

    Args:
        path: ends in .csv, .jsonl or .parquet.

    Returns:
        The rows; in the place of one that makes no sense its number and, on one line, what is wrong with it.

    Raises:
        DataError: the table cannot be read, has a column that is not known, or has no rows.
    """
    readers = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise DataError(f"cannot read the table {path}: its suffix is none of {', '.join(readers)}")
    rows: list[Row | tuple[int, str]] = []
    try:
        for number, values in enumerate(readers[path.suffix.lower()](path), 1):
            if isinstance(values, dict) and (unknown := [str(name) for name in values if name not in COLUMNS]):
                raise DataError(f"{path}: the column {unknown[0]!r} is not known; there are {', '.join(COLUMNS)}")
            try:
                rows.append(_row(number, values, path.parent))
            except UserError as error:
                rows.append((number, str(error)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the table {path}: {reason}") from error
    if not rows:
        raise DataError(f"the table {path} has no rows")
    return rows


def _read_csv(path: Path) -> Iterator[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for values in csv.DictReader(file):
            if None in values:
                yield "it has more cells than the table has columns"
            else:
                yield {name: text.strip() for name, text in values.items() if text is not None}


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in filter(str.strip, file):
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                values = f"it is no JSON: {error}"
            yield values if isinstance(values, dict | str) else "it is no JSON object"


def _read_parquet(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise DataError("a table in Parquet needs pyarrow; install it, or paint-by-example[parquet]") from error
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise DataError(f"cannot read the table {path}: {error}") from error


def _row(number: int, values: Any, folder: Path) -> Row:
    if isinstance(values, str):
        raise DataError(values)
    given = {name: value for name, value in values.items() if value is not None and value != ""}
    sources, masks, exemplars = (_several(given.get(name, [])) for name in ("source", "mask", "exemplar"))
    boxes = _boxes(given.get("box", []))
    if len(sources) != 1:
        raise DataError(f"one source is needed, got {len(sources)}")
    if bool(masks) == bool(boxes):
        raise DataError("either a mask or a box is needed")
    libraries, like, tags = (_several(given.get(name, [])) for name in QUERY)
    if bool(exemplars) == bool(libraries):
        raise DataError("either an exemplar or a library is needed")
    if len(libraries) > 1 or len(like) > 1 or ((like or tags) and not libraries):
        raise DataError("like and tag go with one library, and there is one like")
    settings: dict[str, Any] = {}
    for name, kind in SETTINGS.items():
        if name in given:
            try:
                settings[name] = kind(given[name])
                if kind is int and float(given[name]) != settings[name]:
                    raise ValueError
            except (ValueError, TypeError, OverflowError):
                wanted = WANTED.get(kind) or f"of type {kind.__name__}"
                raise DataError(f"{name} must be {wanted}, got {given[name]!r}") from None
    drawing = None
    if "structure" in settings:
        structure = parse_structure(settings["structure"])
        settings["structure"] = structure.kind
        drawing = None if structure.sketch is None else str(folder / str(structure.sketch))
    located = (tuple(str(folder / str(path)) for path in paths) for paths in (sources, masks, exemplars))
    (source,), masked, shown = located
    query = None
    if libraries:
        asked = next((str(folder / str(path)) for path in like), None)
        library = str(libraries[0])
        query = Query(library if "://" in library else str(folder / library), asked, tuple(map(str, tags)))
    return Row(number, source, masked, tuple(boxes), shown, settings, query, drawing)


def _several(value: Any) -> list[Any]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(";") if part.strip()]
    return value if isinstance(value, list) else [value]


def _boxes(value: Any) -> list[Box]:
    if isinstance(value, list) and len(value) == 4 and not any(isinstance(side, list | str) for side in value):
        value = [value]
    texts = [",".join(map(str, one)) if isinstance(one, list) else str(one) for one in _several(value)]
    return [parse_box(text) for text in texts]
