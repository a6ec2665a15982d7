"""Downloaded packages of drawings and photographs, turned into a folder of cut-out objects and backgrounds.

The folder is built on the user's machine, nothing of it is committed. `Composites` makes its scenes from it:

    objects/NAME.png       cut-outs with alpha, at most 160 pixels a side
    backgrounds/NAME.jpg   photographs and paintings, at most 1024 pixels a side
    composites.jsonl       one line each: name, kind, source package, group, split

The split is by group: all variants and near-copies of an object are on one side.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..errors import DataError

LISTING = "composites.jsonl"  # the file that names every picture of the folder
OBJECT_SIZE = 160  # longest side of a stored cut-out, pixels
SMALLEST_OBJECT = 64  # longest side of a cut-out that is worth storing, pixels
BACKGROUND_SIZE = 1024  # longest side of a stored background, pixels
HELD_OUT_OBJECTS = 0.08  # share of groups never trained on
HELD_OUT_BACKGROUNDS = 0.15
MAX_PIXELS = 24_000_000  # larger files are skipped
ALPHA_THRESHOLD = 26  # of 255: below it a pixel does not count as part of the object


class Source(NamedTuple):
    """Where a package keeps its pictures."""

    kind: str
    """`object` or `background`."""
    folder: str
    """Inside the package."""
    skipped: tuple[str, ...] = ()
    """Names of folders that are left out: letters, signs, flags and money are not objects."""


SOURCES = {  # by the start of the package's file name
    "tuxpaint-stamps-default": Source(
        "object", "usr/share/tuxpaint/stamps", ("symbols", "roadsigns", "flags", "money")
    ),
    "lobehub-fluent-emoji-3d": Source("object", "package/assets"),
    "openclipart-png": Source(
        "object",
        "usr/share/openclipart/png",
        ("shapes", "signs_and_symbols", "computer", "geography", "logos", "buttons", "special", "cards", "unsorted"),
    ),
    "gnome-backgrounds": Source("background", "usr/share/backgrounds"),
    "lomiri-wallpapers-20.04": Source("background", "usr/share/backgrounds"),
    "mate-backgrounds": Source("background", "usr/share/backgrounds", ("desktop",)),
    "plasma-workspace-wallpapers": Source("background", "usr/share/wallpapers", ("images_dark",)),
    "ukui-wallpapers": Source("background", "usr/share/backgrounds"),
}
PICTURE_SUFFIXES = {".png", ".webp", ".jpg", ".jpeg"}
EMOJI = "lobehub-fluent-emoji-3d"  # its files are named by code points

SIGNS = (  # first code points of emoji that are no things
    range(0x0000, 0x2600),  # key caps, letters, arrows, geometric shapes
    range(0x2648, 0x2654),  # the zodiac
    range(0x2660, 0x27C0),  # card suits, warnings, stars, check marks, hearts
    range(0x2B00, 0x2C00),  # arrows, squares, stars
    range(0x1F100, 0x1F300),  # letters in boxes, flags
    range(0x1F500, 0x1F53E),  # buttons, coloured circles and triangles
    range(0x1F549, 0x1F568),  # religious signs, clocks
    range(0x1F6AB, 0x1F6C6),  # prohibitions, signs in buildings
    range(0x1F7E0, 0x1F7EC),  # coloured circles and squares
)
FACES = (range(0x1F600, 0x1F650), range(0x1F910, 0x1F930))  # so alike that they make one group
SKIN_TONES = range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Entry:
    """One line of ``composites.jsonl``."""

    name: str
    """File name without folder and suffix."""
    kind: str
    """`object` or `background`."""
    source: str
    """Package it comes from."""
    group: str
    """Variants of one thing share a group."""
    split: str
    """`train` or `held_out`."""

    def path(self, folder: Path) -> Path:
        """Where the picture lies in the folder that `prepare` built."""
        return folder / f"{self.kind}s" / f"{self.name}.{'png' if self.kind == 'object' else 'jpg'}"


def prepare(downloads: Path, out: Path) -> dict[str, int]:
    """Build the folder of objects and backgrounds from downloaded packages.

    The list of the pictures is written last. A folder that has it is left as it is; one that was broken off before is
    built anew.

    Args:
        downloads: folder with the packages' files, ``.deb`` and ``.tgz``; of several versions, the last by name counts.
        out: folder to write.

    Returns:
        How many pictures of each kind and split there are.

    Raises:
        DataError: if no known package lies in ``downloads``, one cannot be unpacked, or none holds a usable picture.
    """
    if (out / LISTING).exists():
        return count(read_entries(out))
    packages = {name: path for name in SOURCES for path in sorted(downloads.glob(f"{name}*")) if path.is_file()}
    if not packages:
        raise DataError(f"no package found in {downloads}: expected files named {', '.join(f'{n}*' for n in SOURCES)}")
    for source in SOURCES.values():
        (out / f"{source.kind}s").mkdir(parents=True, exist_ok=True)
    entries: list[Entry] = []
    thumbnails: list[np.ndarray] = []
    written: set[Path] = set()
    for package, path in packages.items():
        source = SOURCES[package]
        with tempfile.TemporaryDirectory() as folder:
            unpack(path, Path(folder))
            root = Path(folder) / source.folder
            files = [
                file
                for file in sorted(root.rglob("*"))
                if file.suffix in PICTURE_SUFFIXES and not set(file.relative_to(root).parts) & set(source.skipped)
            ]
            make = make_objects if source.kind == "object" else make_backgrounds
            for entry, tiny in make(package, tqdm(files, desc=package, unit="file"), out, written):
                entries.append(entry)
                thumbnails.append(tiny)
    if not entries:
        names = ", ".join(path.name for path in packages.values())
        raise DataError(f"no usable picture in {names}, in {downloads}: download them again")
    entries = split_by_group(merge_copies(entries, np.stack(thumbnails)))
    partial = out / f"{LISTING}.partial"
    partial.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in entries), encoding="utf-8")
    partial.replace(out / LISTING)
    return count(entries)


def read_entries(folder: Path) -> list[Entry]:
    """Read ``composites.jsonl``.

    Raises:
        DataError: if it is not there, or a line is not an entry.
    """
    path = folder / LISTING
    if not path.exists():
        raise DataError(f"no {LISTING} in {folder}: build it with `pbe prepare composites`")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError, RecursionError) as error:
            problem = f"{path}, line {number} is no entry: {error}"
            raise DataError(f"{problem}; remove the folder and run `pbe prepare composites` again") from None
    return entries


def count(entries: Iterable[Entry]) -> dict[str, int]:
    """Count entries by kind and split."""
    counts: dict[str, int] = {}
    for entry in entries:
        key = f"{entry.kind}s, {entry.split.replace('_', ' ')}"
        counts[key] = counts.get(key, 0) + 1
    return dict(sorted(counts.items()))


def unpack(package: Path, folder: Path) -> None:
    """Unpack a ``.deb`` or ``.tgz`` without running anything in it.

    Raises:
        DataError: if it cannot be unpacked.
    """
    try:
        if package.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True, capture_output=True, text=True)
        else:
            with gzip.open(package) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                extract_files(archive, folder)
                # tarfile takes what is damaged for the archive's end: only the checksum at the stream's end tells
                while stream.read(2**20):
                    pass
    except subprocess.CalledProcessError as error:
        raise DataError(f"cannot unpack {package}: {error.stderr}; download it again") from error
    except FileNotFoundError as error:
        raise DataError(f"cannot unpack {package}: {error}; a .deb needs dpkg-deb, of the package dpkg") from error
    except (OSError, EOFError, zlib.error, tarfile.TarError, ValueError) as error:
        # the second and third: a download that was cut off; the last: a name that is none
        raise DataError(f"cannot unpack {package}: {error}; download it again") from error


def extract_files(archive: tarfile.TarFile, folder: Path) -> None:
    """Write the files of an archive and nothing else of it; tarfile's own filters are not in every Python 3.11.

    Raises:
        TarError: a file would lie outside of the folder.
    """
    for member in archive:
        place = (folder / member.name).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise tarfile.TarError(f"{member.name} would lie outside of the folder")
        if (content := archive.extractfile(member) if member.isfile() else None) is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            with content, place.open("wb") as file:
                shutil.copyfileobj(content, file)


def make_objects(
    package: str, files: Iterable[Path], out: Path, written: set[Path]
) -> Iterator[tuple[Entry, np.ndarray]]:
    """Write each usable cut-out, cropped to its alpha.

    Args:
        package: a key of `SOURCES`.
        files: the package's pictures.
        out: folder to write ``objects/`` in.
        written: what was written before; grows.

    Yields:
        An entry without its split, and a thumbnail to find copies with, see `thumbnail`.
    """
    prefix = package.split("-")[0]
    for file in files:
        if package == EMOJI and not is_object_emoji(file.stem):
            continue
        picture = read_cutout(file)
        if picture is None:
            continue
        entry = Entry(f"{prefix}-{file.stem}", "object", package, f"{prefix}-{group_of(package, file.stem)}", "")
        while entry.path(out) in written:  # the same file name in another folder of the package
            entry = replace(entry, name=f"{entry.name}-{hashlib.sha1(file.parent.name.encode()).hexdigest()[:6]}")
        picture.save(entry.path(out))
        written.add(entry.path(out))
        yield entry, thumbnail(picture)


def read_cutout(file: Path) -> Image.Image | None:
    """The picture cropped to its opaque part and shrunk to `OBJECT_SIZE`, or None if it is no usable cut-out."""
    picture = open_picture(file, "RGBA")
    if picture is None:
        return None
    alpha = np.asarray(picture)[..., 3] >= ALPHA_THRESHOLD
    if not alpha.any():
        return None
    rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
    left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    width, height = right - left, bottom - top
    longest = max(width, height)
    cover = float(alpha[top:bottom, left:right].mean())
    # lines and frames are not objects, and a full rectangle is a picture, not a cut-out
    if longest < SMALLEST_OBJECT or longest > 4 * min(width, height) or not 0.2 <= cover <= 0.97:
        return None
    picture = picture.crop((left, top, right, bottom))
    # the box filter is much faster on the few huge drawings, and as good where each pixel averages over many
    resampling = Image.Resampling.BOX if longest > 4 * OBJECT_SIZE else Image.Resampling.LANCZOS
    picture.thumbnail((OBJECT_SIZE, OBJECT_SIZE), resampling)
    return picture


def open_picture(file: Path, mode: str) -> Image.Image | None:
    """A picture in a mode, or None if it cannot be read or is larger than a drawing or wallpaper has reason to be."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own warning about size and about palettes with transparency
            with Image.open(file) as picture:
                return picture.convert(mode) if picture.width * picture.height <= MAX_PIXELS else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def thumbnail(picture: Image.Image) -> np.ndarray:
    """A tiny version of an RGBA picture over grey, for finding copies: (192,) float32 in [0, 1]."""
    grey = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    grey.alpha_composite(picture)
    return np.asarray(grey.convert("RGB").resize((8, 8), Image.Resampling.BOX), np.float32).ravel() / 255


def make_backgrounds(
    package: str, files: Iterable[Path], out: Path, written: set[Path]
) -> Iterator[tuple[Entry, np.ndarray]]:
    """Write each background that is not upright, once; see `make_objects`."""
    for file in files:
        if file.stem == "screenshot":
            continue
        # Plasma keeps one wallpaper in several resolutions under its name: the first that is not upright is taken
        name = file.parts[-4] if file.parent.name == "images" else file.stem
        group = re.sub(r"(-[ld]|_\d+x\d+)$", "", name)  # light and dark, and other sizes, of one wallpaper
        entry = Entry(name, "background", package, group, "")
        path = entry.path(out)
        if path in written or (picture := open_picture(file, "RGB")) is None or picture.width < picture.height:
            continue
        picture.thumbnail((BACKGROUND_SIZE, BACKGROUND_SIZE), Image.Resampling.BOX)
        picture.save(path, quality=95)
        written.add(path)
        yield entry, thumbnail(picture.convert("RGBA"))


def is_object_emoji(code: str) -> bool:
    """Whether an emoji is a thing: no skin-tone copy, key cap, flag, letter, sign or clock.

    Args:
        code: its code points, as in ``1f468-200d-1f373``; any other name is no emoji.
    """
    if not re.fullmatch(r"[0-9a-f]+(-[0-9a-f]+)*", code, re.IGNORECASE):
        return False
    points = [int(point, 16) for point in code.split("-")]
    if any(point in SKIN_TONES for point in points):  # the neutral one stands for all
        return False
    return not any(points[0] in signs for signs in SIGNS)


def group_of(package: str, stem: str) -> str:
    """The name that all variants of an object share: an emoji's first code point, a file's name without its number."""
    if package == EMOJI:
        first = int(stem.split("-")[0], 16)
        return "face" if any(first in faces for faces in FACES) else f"{first:x}"
    return stem.rstrip("0123456789").rstrip("_- ")


def merge_copies(entries: list[Entry], thumbnails: np.ndarray, distance: float = 0.04) -> list[Entry]:
    """Give near-copies of one kind the same group, so that they end up on one side of the split.

    Args:
        entries: all entries.
        thumbnails: (N, 192) float32 in [0, 1], a row each.
        distance: two thumbnails whose root mean square difference is below it are copies.

    Returns:
        The entries in the same order.
    """
    parent: dict[str, str] = {entry.group: entry.group for entry in entries}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    norms = (thumbnails**2).sum(1)
    squared = (norms[:, None] + norms[None] - 2 * thumbnails @ thumbnails.T) / thumbnails.shape[1]
    for i, j in zip(*np.nonzero(np.triu(squared < distance**2, 1)), strict=True):
        if entries[i].kind == entries[j].kind:
            parent[root(entries[j].group)] = root(entries[i].group)
    return [replace(entry, group=root(entry.group)) for entry in entries]


def split_by_group(entries: list[Entry]) -> list[Entry]:
    """Put each group on one side by the hash of its name: the same everywhere, and new objects move no old one."""

    def split(entry: Entry) -> str:
        share = int(hashlib.sha1(entry.group.encode()).hexdigest()[:8], 16) / 2**32
        return "held_out" if share < (HELD_OUT_OBJECTS if entry.kind == "object" else HELD_OUT_BACKGROUNDS) else "train"

    return [replace(entry, split=split(entry)) for entry in entries]
