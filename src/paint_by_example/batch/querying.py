"""Rows that ask a library for their exemplar become rows that name its file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..crops import box_mask
from ..errors import DataError, UserError
from ..images import load_exemplar, load_image, load_mask
from ..library import Encoder, Hole, Search, encode, open_library, open_search
from ..painter import Painter
from .table import Query, Row


def answer(rows: Sequence[Row | tuple[int, str]], painter: Painter) -> list[Row | tuple[int, str]]:
    """Answer all queries; each library is opened once.

    An answer is a file, so a row's id and its result are those of a row that names this file.

    Returns:
        The rows; in the place of one whose query has no answer its number and the reason, on one line.
    """
    searches: dict[str, Search] = {}
    answered: list[Row | tuple[int, str]] = []
    for row in rows:
        if isinstance(row, Row) and row.query is not None:
            try:
                if row.query.library not in searches:
                    library = open_library(row.query.library)
                    library.check(Encoder.of(painter))
                    searches[row.query.library] = open_search(library)
                row = dataclasses.replace(row, exemplars=(best(searches[row.query.library], row, painter),), query=None)
            except UserError as error:
                answered.append((row.number, str(error)))
                continue
        answered.append(row)
    for search in searches.values():
        search.library.close()
    return answered


def best(search: Search, row: Row, painter: Painter) -> str:
    """The file of the picture that answers a row's query.

    Raises:
        UserError: there is none, or the query's pictures cannot be used.
    """
    query = row.query
    assert isinstance(query, Query)
    if query.like is not None:
        found = search.nearest(encode(painter, load_exemplar(query.like)), 1, query.tags)
    else:
        photograph = load_image(row.source)
        if len(row.where) != 1:
            raise DataError("a library without like needs one mask or box, which the exemplar is to fit")
        masks = [load_mask(path, photograph.size) for path in row.masks]
        masks += [box_mask(box, photograph.size) for box in row.boxes]
        found = search.fitting(Hole.of(photograph, masks[0]), 1, tags=query.tags)
    if not found:
        raise DataError(f"the library {query.library} has no such picture")
    return str(search.library.exemplar(found[0].entry).picture)
