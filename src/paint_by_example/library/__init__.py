"""The exemplar library: pictures that were encoded once, to be found again and painted with.

    library/library.db      rows: content hash, files, size, colour, tags, licence, thumbnail; SQLite
    library/features.f32    (n, F) float32, what the encoder's frozen part says of each picture; only ever appended to
    library/texts.f32       (n, T) float32, where each picture lies among words; only with a text encoder
    library/index.usearch   a graph of near neighbours; only once it was asked for
    library/.lock           held while something is added or removed

How many rows of the matrix count is what the database says: what stands behind them was left by a write that was
interrupted, and is written over.
"""

from .adding import Added, add_pictures
from .encoder import Encoder, encode
from .entry import Entry
from .lance import open_library
from .queries import find_exemplars, make_index, open_search
from .searching import Found, Hole, Search
from .store import Library
from .text import TextEncoder, find_words

__all__ = [
    "Added",
    "Encoder",
    "Entry",
    "Found",
    "Hole",
    "Library",
    "Search",
    "TextEncoder",
    "add_pictures",
    "encode",
    "find_exemplars",
    "find_words",
    "make_index",
    "open_library",
    "open_search",
]
