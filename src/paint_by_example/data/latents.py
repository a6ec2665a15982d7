"""Latents computed ahead: what the frozen parts of a model make of training examples, kept on disk.

A folder of chunks, each an array of records in NumPy's own format. A chunk is written beside its place, brought to the
disk and renamed, so one that is there is whole, and building again goes on with those that are missing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..state import write_whole

CHUNK = 4096  # examples a file
FIELDS = ("z_0", "z_masked", "latent_mask", "features")
STRUCTURE = "structure"  # a further one where that part of a `SourceEncoder` learns


class Latents:
    """Examples as latents, in the place of pictures.

    Args:
        folder: of the chunks.
        count: how many examples there should be.

    Raises:
        DataError: if a chunk is missing or damaged.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self.epoch = 0  # the examples are the same in every one
        self.count = count
        self.chunks = [read_chunk(path, length) for path, length in chunk_files(folder, count)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One example, all float32.

        Returns:
            ``z_0`` and ``z_masked`` (C, h, w), ``latent_mask`` (1, h, w) in [0, 1], ``features`` (F,); where they were
            computed, ``structure`` (1, H, W) in [0, 1].

        Raises:
            IndexError: if there are not that many.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"example {index} of {self.count}")
        record = self.chunks[index // CHUNK][index % CHUNK]
        return {name: record[name].astype(np.float32) for name in record.dtype.names}


def chunk_files(folder: Path, count: int) -> list[tuple[Path, int]]:
    """The chunks of ``count`` examples: file and number of examples in it."""
    return [
        (folder / f"latents-{first // CHUNK:05d}.npy", min(CHUNK, count - first)) for first in range(0, count, CHUNK)
    ]


def check_made_of(folder: Path, settings: dict[str, str]) -> None:
    """Note in a new folder what its latents are made of, and compare in one that is there.

    Raises:
        DataError: if they are made of something else, or the note is damaged.
    """
    note = folder / "made_of.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(settings, indent=2) + "\n"
        write_whole(note, lambda file: file.write(text.encode()))
        return
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {note}: {error}; remove {folder} to compute the latents anew") from error
    if found != settings:
        raise DataError(f"the latents in {folder} are made of {found}, not of {settings}; remove it or choose another")


def read_chunk(path: Path, length: int) -> np.ndarray:
    """A chunk, mapped into memory, not read.

    Raises:
        DataError: if it is missing, damaged or of another length.
    """
    try:
        chunk = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the latents {path}: {error}; remove the file and run again") from error
    if (chunk.dtype.names or ())[: len(FIELDS)] != FIELDS or len(chunk) != length:
        raise DataError(f"{path} does not hold {length} examples of {', '.join(FIELDS)}; remove it and run again")
    return np.asarray(chunk)


def write_chunk(path: Path, parts: dict[str, np.ndarray]) -> None:
    """Write a chunk, whole or not at all, see `state.write_whole`.

    Args:
        path: of the chunk.
        parts: the fields, each (length, ...); kept in half precision.
    """
    length, names = len(parts[FIELDS[0]]), [name for name in (*FIELDS, STRUCTURE) if name in parts]
    chunk = np.empty(length, dtype=[(name, np.float16, parts[name].shape[1:]) for name in names])
    for name in names:
        chunk[name] = parts[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: np.save(file, chunk))
