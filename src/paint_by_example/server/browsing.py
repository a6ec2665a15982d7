"""The folders a person may choose pictures from: ``--input`` and ``--output-dir``, and nothing outside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from PIL import Image

from ..errors import UserError
from ..images import READABLE_SUFFIXES, image_size, load_image
from .messages import Entry, Folder, InputRoot

SUFFIXES = (*READABLE_SUFFIXES, ".gif", ".avif")
TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
TYPES |= {"TIFF": "image/tiff", "BMP": "image/bmp", "AVIF": "image/avif"}
MAX_ENTRIES = 5000
RootName = Literal["input", "output"]


class NotThere(Exception):
    """There is no such folder or picture, or it is none of the client's business."""


@dataclass(frozen=True)
class Roots:
    """The two folders."""

    input: Path | None = None
    """A picture or a folder."""
    output: Path | None = None

    def about_input(self) -> InputRoot | None:
        """What ``--input`` is."""
        if self.input is None:
            return None
        if self.input.is_file():
            return InputRoot(kind="picture", picture=self.input.name)
        return InputRoot(kind="folder")

    def list(self, root: RootName, folder: str) -> Folder:
        """What is in a folder: folders, then pictures, by name.

        Raises:
            NotThere: there is no such folder within the root.
        """
        base, only = self._base(root)
        place = _within(base, folder)
        if not place.is_dir() or (only and place != base):
            raise NotThere(f"there is no folder {folder!r} in the {root} folder")
        folders, pictures = [], []
        try:
            found = sorted(place.iterdir(), key=lambda one: one.name.casefold())
        except OSError as error:
            raise NotThere(f"the folder {folder!r} cannot be read") from error
        for entry in found[:MAX_ENTRIES]:
            if entry.name.startswith(".") or (only and entry.name != only):
                continue
            try:
                _within(base, str(entry.relative_to(base)))
                status = entry.stat()
                if entry.is_dir():
                    folders.append(Entry(name=entry.name, kind="folder"))
                elif entry.is_file() and entry.suffix.lower() in SUFFIXES:
                    entry.name.encode()  # a name that is no text cannot be asked for
                    pictures.append(
                        Entry(name=entry.name, kind="picture", bytes=status.st_size, modified=status.st_mtime)
                    )
            except (NotThere, OSError, UnicodeError):
                continue
        return Folder(root=root, folder=folder, entries=[*folders, *pictures])

    def picture(self, root: RootName, path: str) -> tuple[Path, str]:
        """A picture's file and its media type.

        Raises:
            NotThere: there is no such picture within the root.
            UserError: it is damaged or none.
        """
        base, only = self._base(root)
        place = _within(base, path)
        if not place.is_file() or place.suffix.lower() not in SUFFIXES or (only and place.name != only):
            raise NotThere(f"there is no picture {path!r} in the {root} folder")
        try:
            image_size(place, "picture")
            with Image.open(place, formats=list(TYPES.keys() - {"MPO"})) as opened:
                return place, TYPES[opened.format or ""]
        except UserError as error:
            raise UserError(str(error).replace(str(place), path)) from error
        except (OSError, KeyError) as error:
            raise UserError(f"cannot use the picture {path}: it is damaged or of a format that is not taken") from error

    def _base(self, root: RootName) -> tuple[Path, str | None]:
        given = self.input if root == "input" else self.output
        if given is None:
            raise NotThere(f"the server was started without --{'input' if root == 'input' else 'output-dir'}")
        given = given.resolve()
        return (given.parent, given.name) if given.is_file() else (given, None)


def _within(base: Path, path: str) -> Path:
    """A path below a folder, links followed.

    Raises:
        NotThere: it leads out of the folder, or through what is hidden.
    """
    parts = PurePosixPath(path).parts
    if "\0" in path or "\\" in path or any(part == "/" or part.startswith(".") for part in parts):
        raise NotThere(f"{path!r} is no path within the folder")
    try:
        place = (base / Path(*parts)).resolve()
        place.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise NotThere(f"{path!r} is no path within the folder") from error
    if not place.is_relative_to(base):
        raise NotThere(f"{path!r} is no path within the folder")
    return place


def thumbnail(path: Path, size: int) -> bytes:
    """A small JPEG of a picture, upright.

    Args:
        path: of the picture.
        size: pixels a side, at most.

    Raises:
        UserError: the picture cannot be used.
    """
    width, height = image_size(path, "picture")
    reduce = next((part for part in (8, 4, 2) if max(width, height) >= size * part), 1)
    picture = load_image(path, "picture", reduce)
    picture.thumbnail((size, size))
    ground = Image.new("RGB", picture.size, "white")
    ground.paste(picture, mask=picture.getchannel("A") if picture.mode == "RGBA" else None)
    file = io.BytesIO()
    ground.save(file, "JPEG", quality=85)
    return file.getvalue()
