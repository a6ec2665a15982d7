"""Training data as tar files, for data larger than a disk: written from an index, read where they lie.

    write_shards -> OUT/shard-000000.tar, ..., shards.jsonl (which examples are where)  ->  ShardDataset

A shard is an ordinary tar file in WebDataset's layout: of an example, the members ``000000042.jpg``, ``000000042.json``
(its line of the index) and ``000000042.mask0.png``, one after the other. ``shards.jsonl`` has a line a shard, with the
offset and length of each example in it. So an example is read by its place, from a disk or by a range request from
whatever store fsspec knows (``https://``, ``s3://``, ``gs://``, ...), and nothing is kept on this machine.

A stream of whole tar files, as WebDataset itself reads them, has no place to go back to: which examples were seen
depends on how many processes read how far, and a run that was killed cannot go on exactly. Here the order of an epoch
follows from the seed alone, as for an index, whoever reads which part of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from ..errors import DataError, PictureError, UserError
from ..images import EXEMPLAR_SIZE, IMAGE_SIZE, load_image
from ..state import write_whole
from .dataset import Line, PictureExamples, read_index, read_line
from .recipes import DEFAULT, Recipe
from .sources import SKIPPED, check_settings, whole_lines

SHARDS = "shards.jsonl"
SHARD_SIZE = 256  # megabytes
RUN = 8  # examples that lie beside each other and are read at once: one request for about as many megabytes as pictures
PAUSES = (1, 5, 0)  # seconds after a failed request; the last one is given up


# Writing


def write_shards(index: Path, out: Path, shard_size: int = SHARD_SIZE, seed: int = 0) -> dict[str, int]:
    """Write the pictures of an index as shards, in an order drawn at random; running again goes on.

    Args:
        index: an ``index.jsonl``.
        out: folder to write.
        shard_size: megabytes after which the next shard is begun, at least 1.
        seed: of the order.

    Returns:
        Number of shards, of pictures in them, and of skipped pictures, which are listed in ``skipped.tsv``.

    Raises:
        DataError: if the index cannot be used, no picture of it can, the folder holds shards of another, or a picture
            that is there cannot be read.
    """
    if shard_size < 1:
        raise DataError(f"a shard has at least 1 MB, got {shard_size}")
    lines = read_index(index)
    order = np.random.default_rng(seed).permutation(len(lines))
    out.mkdir(parents=True, exist_ok=True)
    content = hashlib.sha256(index.read_bytes()).hexdigest()
    check_settings(out, {"index": str(index.resolve()), "sha256": content, "shard_size": shard_size, "seed": seed})
    table, partial = out / SHARDS, out / f"{SHARDS}.partial"
    if table.exists():
        table.replace(partial)
    done = [json.loads(line) for line in whole_lines(partial)]
    position = done[-1]["next"] if done else 0
    with (
        partial.open("a", encoding="utf-8") as listed,
        tqdm(total=len(lines), initial=position, desc="pictures", unit="picture", mininterval=1) as bar,
    ):
        left = ((int(number), lines[number]) for number in order[position:])
        while position < len(order):
            shard = Shard(index, left, shard_size * 10**6)
            name = f"shard-{len(done):06d}.tar"
            write_whole(out / name, shard.write)
            position += shard.taken
            bar.update(shard.taken)
            done.append({"shard": name, "examples": shard.places, "skipped": shard.skipped, "next": position})
            listed.write(json.dumps(done[-1]) + "\n")
            listed.flush()
    skipped = [problem for line in done for problem in line["skipped"]]
    (out / SKIPPED).write_text("".join(f"{name}\t{problem}\n" for name, problem in skipped), encoding="utf-8")
    pictures = sum(len(line["examples"]) for line in done)
    if not pictures:
        raise DataError(f"no picture of {index} can be used, see {out / SKIPPED}; put them in place, remove {out}")
    partial.replace(table)
    return {"shards": len(done), "pictures": pictures, "skipped": len(skipped)}


class Shard:
    """One tar file that is being written.

    Args:
        index: the index, whose folder its paths are relative to.
        left: what is left to write, lines and their places in the index; it is taken from there.
        size: bytes after which nothing is added.
    """

    def __init__(self, index: Path, left: Iterator[tuple[int, Line]], size: int) -> None:
        self.index, self.left, self.size = index, left, size
        self.taken = 0
        """Lines that were taken, written or skipped."""
        self.places: list[tuple[int, int]] = []
        """Of each example in the file, offset and length in bytes."""
        self.skipped: list[tuple[str, str]] = []
        """Pictures that cannot be used, and why."""

    def write(self, file: IO[bytes]) -> None:
        """Put the tar file's bytes into a file."""
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            while (start := file.tell()) < self.size and (one := next(self.left, None)) is not None:
                number, line = one
                self.taken += 1
                try:
                    members = list(self.members(line, f"{number:09d}"))
                except (OSError, PictureError) as error:
                    self.skipped.append((line.picture, " ".join(str(error).split())))
                    continue
                for name, content in members:
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                self.places.append((start, file.tell() - start))

    def members(self, line: Line, key: str) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files that an example is made of.

        Raises:
            OSError: if a file cannot be read.
            PictureError: if a picture cannot be decoded.
        """
        files = [("", line.picture), *((f".mask{place}", name) for place, name in enumerate(line.masks))]
        names: list[str | None] = []
        for part, path in files:
            if path is None:
                names.append(None)
                continue
            content = read_file(self.index.parent / path)
            load_image(content, "mask" if part else "picture", reduce=8)  # decoded small, to see that it can be
            names.append(f"{key}{part}{Path(path).suffix.lower() or '.picture'}")
            yield str(names[-1]), content
        entry = {"picture": names[0], "boxes": line.boxes.tolist()} | ({"masks": names[1:]} if line.masks else {})
        yield f"{key}.json", json.dumps(entry).encode()


def read_file(path: Path) -> bytes:
    """Read a file, which may lie on another machine, so that a passing failure costs no picture.

    Raises:
        OSError: if it is not there, or not for us.
        DataError: if reading it failed three times.
    """
    for pause in PAUSES:
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError):
            raise
        except OSError as error:
            if not pause:
                raise DataError(f"cannot read {path}: {error.strerror}; run again to go on from here") from error
            time.sleep(pause)
    raise AssertionError("the last pause is 0")


# Reading


class ShardDataset(PictureExamples):
    """The pictures of shards, each once an epoch, in an order that depends on (seed, epoch) only.

    An item depends on (seed, epoch, position), and is what `BoxDataset` makes of the same line of the index. Few
    examples that lie beside each other stay together in every epoch; the order in the shards is random already.

    Args:
        place: a ``shards.jsonl``, or the folder with it: a path, or a URL that fsspec knows.
        size: side S of source and mask, pixels.
        exemplar_size: side E of the exemplar, pixels.
        seed: of everything drawn.
        recipe: how an example is made.

    Raises:
        DataError: if the list of shards cannot be read.
    """

    def __init__(
        self,
        place: str | Path,
        size: int = IMAGE_SIZE,
        exemplar_size: int = EXEMPLAR_SIZE,
        seed: int = 0,
        recipe: Recipe = DEFAULT,
    ) -> None:
        super().__init__(size, exemplar_size, seed, recipe)
        self.folder = location(place).removesuffix(SHARDS).rstrip("/")
        table = f"{self.folder}/{SHARDS}"
        runs: list[np.ndarray] = []  # of each, the rows shard, offset, length
        self.shards: list[str] = []
        try:
            for line in filter(None, read_range(table).decode("utf-8").split("\n")):
                entry = json.loads(line)
                places = np.array(entry["examples"], np.int64).reshape(-1, 2)
                places = np.insert(places, 0, len(self.shards), axis=1)
                runs += [places[start : start + RUN] for start in range(0, len(places), RUN)]
                self.shards.append(str(entry["shard"]))
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{table} is no list of shards ({error!r}); write it with pbe prepare shards") from None
        if not runs:
            raise DataError(f"{table} lists no example; write it with pbe prepare shards")
        self.places = np.concatenate(runs)
        self.starts = np.cumsum([0, *(len(run) for run in runs)])  # of the runs, among the places
        self.ordered = -1, np.empty(0, np.int64)  # an epoch and its order, made once
        self.read = -1, b""  # a run and its bytes: the next item is most likely of the same

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """One training example, see `PictureExamples.example`.

        Raises:
            DataError: if its shard cannot be read, or what is in it cannot be used.
            IndexError: if there are not that many items.
        """
        if not 0 <= position < len(self):  # also what ends a loop over the items
            raise IndexError(f"item {position} of {len(self)}")
        number = int(self.order()[position])
        shard, offset, length = self.places[number].tolist()
        where = f"{self.folder}/{self.shards[shard]}, {length} bytes from {offset}"
        members = read_members(self.content(number), where)
        name = next((name for name in members if name.endswith(".json")), None)
        if name is None or not name.split(".")[0].isdecimal():
            raise DataError(f"{where}: this is no example, but {', '.join(members) or 'nothing'}; write it anew")
        line = read_line(members[name].decode("utf-8", "replace"), 1, Path(name))
        if missing := [path for path in (line.picture, *line.masks) if path is not None and path not in members]:
            raise DataError(f"{where}: {', '.join(missing)} is missing; write the shards anew")
        return self.example(int(name.split(".")[0]), line, f"{where} ({name})", members.__getitem__)

    def order(self) -> np.ndarray:
        """The examples in the epoch's order, (N,) int64: run after run, the runs in random order."""
        if self.ordered[0] != self.epoch:
            runs = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.starts) - 1)
            order = np.concatenate([np.arange(self.starts[run], self.starts[run + 1]) for run in runs])
            self.ordered = self.epoch, order
        return self.ordered[1]

    def content(self, number: int) -> bytes:
        """The part of its shard that an example is, after reading the run that it is of."""
        run = int(np.searchsorted(self.starts, number, side="right")) - 1
        shard, first, _ = self.places[self.starts[run]].tolist()
        if self.read[0] != run:
            _, last, length = self.places[self.starts[run + 1] - 1].tolist()
            self.read = run, read_range(f"{self.folder}/{self.shards[shard]}", first, last + length)
        _, offset, length = self.places[number].tolist()
        return self.read[1][offset - first : offset - first + length]


def location(place: str | Path) -> str:
    """A place as fsspec wants it: of ``s3://bucket/x``, `Path` makes ``s3:/bucket/x``."""
    return re.sub(r"^([a-z][a-z0-9+.-]+):/+", r"\1://", str(place))


def read_range(url: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read a part of a file, or all of it, from wherever it is.

    Args:
        url: a path, or a URL that fsspec knows.
        start: first byte.
        end: byte to stop before.

    Raises:
        DataError: if it cannot be read, tried three times.
    """
    import fsspec

    for pause in PAUSES:
        try:
            files, path = fsspec.core.url_to_fs(url)
            content = bytes(files.cat_file(path, start, end))
        except ImportError as error:  # says which package knows this kind of store
            raise UserError(f"cannot read {url}: {error}") from error
        except (FileNotFoundError, PermissionError, ValueError) as error:
            raise DataError(f"cannot read {url}: {type(error).__name__}: {error}") from error
        except Exception as error:  # each store has errors of its own
            if not pause:
                raise DataError(f"cannot read {url}: {type(error).__name__}: {error}") from error
            time.sleep(pause)
        else:
            break
    if start is not None and end is not None and len(content) != end - start:
        raise DataError(
            f"{url} gave {len(content)} bytes in the place of the {end - start} from {start} on:"
            " it is cut short, or its server knows no ranges"
        )
    return content


def read_members(content: bytes, where: str) -> dict[str, bytes]:
    """The files in a part of a tar file.

    Raises:
        DataError: if it is none.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            found = ((member.name, tar.extractfile(member)) for member in tar)
            return {name: file.read() for name, file in found if file is not None}
    except tarfile.TarError as error:
        raise DataError(f"{where}: this is no part of a tar file ({error}); write the shards anew") from error
