"""Pictures from outside: checked before anything is done with them, and never sent back as they came."""

from __future__ import annotations

import re
import shutil
import unicodedata
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import PictureError
from ..images import READABLE, Size, image_size, load_exemplar, load_image, load_mask

FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "AVIF",
)  # that are taken; MPO: cameras' JPEG with a second picture in it
NAME_LENGTH = 60
DECODERS = 2  # uploads of a kind that are looked at at once: a picture takes up to four bytes a pixel

# What no picture holds, and what makes of one file two: a picture to one reader, something else to another.
ZIP_END = re.compile(rb"PK\x05\x06")  # a ZIP archive is read from its end, which lies in the last 65,557 bytes
ZIP_TAIL = 65557
MARKUP = re.compile(rb"<(?:!doctype\s|html[\s>]|script[\s>]|svg[\s>]|body[\s>]|iframe[\s>]|\?php)", re.IGNORECASE)
CHUNK = 1 << 20


def save_upload(upload: IO[bytes], path: Path) -> None:
    """Copy an upload to a file."""
    with path.open("wb") as file:
        shutil.copyfileobj(upload, file, CHUNK)


def file_name(given: str | None, instead: str) -> str:
    """A client's file name without its folders and whatever a file system or a terminal may take amiss."""
    last = re.split(r"[/\\]", given or "")[-1]
    kept = "".join(one if one.isalnum() or one in "-_. ()" else "_" for one in unicodedata.normalize("NFC", last))
    stem, dot, suffix = kept.strip(". ").rpartition(".")
    if not dot:
        stem, suffix = suffix, ""
    stem = stem[:NAME_LENGTH].strip(". ") or instead
    return f"{stem}.{suffix[:8]}" if suffix else stem


def check_picture(path: Path, what: str, name: str, pixels: int) -> Size:
    """Look at a file before it is decoded.

    Args:
        path: of the file.
        what: its role, for messages.
        name: what the client calls it, for messages.
        pixels: it may have at most.

    Returns:
        Width and height, upright.

    Raises:
        PictureError: it is no picture, of a format that is not taken, animated, too large, or something else as well.
    """
    with _named(path, name):
        size = image_size(path, what)
        if size[0] * size[1] > pixels:
            raise PictureError(
                f"cannot use the {what} {path}: it is {size[0]} x {size[1]} = {size[0] * size[1]:,} pixels"
                f" and at most {pixels:,} are accepted; make it smaller first"
            )
        other = _other_content(path)
        if other:
            raise PictureError(
                f"cannot use the {what} {path}: it is a picture and {other} in one; save it again as a plain picture"
            )
        with Image.open(path, formats=READABLE) as opened:
            if opened.format not in FORMATS:
                raise PictureError(f"cannot use the {what} {path}: {opened.format} is not taken; convert it to PNG")
            frames = 1 if opened.format == "MPO" else _frames(opened)
        if frames > 1:
            raise PictureError(f"cannot use the {what} {path}: it is animated or has several pages; save one as PNG")
    return size


def read_source(path: Path, name: str) -> Image.Image:
    """Decode a source; see `images.load_image`."""
    with _named(path, name):
        return load_image(path)


def read_exemplar(path: Path, name: str) -> Image.Image:
    """Decode an exemplar; see `images.load_exemplar`."""
    with _named(path, name):
        return load_exemplar(path)


def read_mask(path: Path, name: str, size: Size) -> NDArray[np.bool_]:
    """Decode a mask; see `images.load_mask`."""
    with _named(path, name):
        return load_mask(path, size)


class _named:
    """Messages speak of the client's file by the client's name, not of where it lies here."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, KeyboardInterrupt | SystemExit):
            return
        if isinstance(error, OSError | ValueError | SyntaxError | Image.DecompressionBombError):
            error = PictureError(f"cannot use {self.path}: it is damaged or no picture; save it again")
        if type(error).__module__.startswith("paint_by_example"):
            raise type(error)(str(error).replace(str(self.path), self.name)) from None


def _frames(opened: Image.Image) -> int:
    return int(getattr(opened, "n_frames", 1))


def _other_content(path: Path) -> str | None:
    """What a file is besides a picture, or None."""
    with path.open("rb") as file:
        if b"%PDF-" in file.read(1024):
            return "a PDF document"
        length = file.seek(0, 2)
        file.seek(max(0, length - ZIP_TAIL))
        if ZIP_END.search(file.read()):
            return "a ZIP archive"
        file.seek(0)
        tail = b""
        while chunk := file.read(CHUNK):
            if MARKUP.search(tail + chunk):
                return "a web page or script"
            tail = chunk[-16:]
    return None
