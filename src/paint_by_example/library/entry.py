"""What a library keeps of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A picture in a library."""

    id: int
    """Its row of the matrix; stays the same, and is not given to another picture."""
    sha256: str
    """Of its pixels, as `record.content_hash` has it."""
    width: int
    height: int
    aspect: float
    """Width over height of what it shows, without an even border."""
    colour: tuple[float, float, float]
    """Mean red, green and blue of what it shows, [0, 1]."""
    licence: str | None
    paths: tuple[str, ...]
    """Files that hold it; several are duplicates, none means that it is missing."""
    tags: tuple[str, ...]


@dataclass(frozen=True)
class NewPicture:
    """What is kept of a picture, but for its features."""

    sha256: str
    width: int
    height: int
    aspect: float
    colour: tuple[float, float, float]
    thumbnail: bytes
    """WebP."""
