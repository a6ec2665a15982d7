"""Benchmarks: numbered items, each a source, a mask and an exemplar.

COCOEE is the paper's (Yang et al., arXiv 2211.13227, section 4.1), in the layout its archive has:

    GT_3500/<id>_GT.png  Ref_3500/<id>_ref.png  Mask_bbox_3500/<id>_mask.png  id_list.npy  [test_set_GT/*.png]

with ids of twelve digits, white where the mask is repainted. DreamEditBench (arXiv 2306.12624) is read as it was
published with SHINE, whose table has 220 items:

    <subject>/bg/content.json  <subject>/bg/<name>.jpg  <subject>/fg/03.jpg  <subject>/fg/03.png
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..crops import box_mask
from ..errors import DataError
from ..images import READABLE_SUFFIXES, load_exemplar, load_image, load_mask

Pixels = NDArray[np.uint8]

SOURCES, EXEMPLARS, MASKS, IDS = "GT_3500", "Ref_3500", "Mask_bbox_3500", "id_list.npy"
REFERENCE = "test_set_GT"  # COCO's test pictures, cut to squares: what results are compared with as a set
TEXTS = "texts.tsv"  # ours: id and what to paint, in words, for methods that take text
DREAM_SIDE = 768  # pixels, of the pictures that DreamEditBench's boxes are in
DREAM_EXEMPLAR = "03"  # the one of each subject's pictures that SHINE shows


@dataclass(frozen=True)
class Item:
    """An edit that is asked for."""

    name: str
    """Of its result, without a suffix; may hold a folder."""
    source: Pixels
    """(H, W, 3)"""
    mask: NDArray[np.bool_]
    """(H, W), True = repaint."""
    exemplar: Pixels
    """(h, w, 3)"""
    subject: Pixels | None = None
    """The exemplar as likeness is measured with, where that is another picture: (h, w, 3)."""
    text: str | None = None
    """What is to be painted, in words; for methods that take no picture."""


class Benchmark(Protocol):
    """Items by number, made or read when asked for."""

    title: str
    """With the number of items, for people."""

    @property
    def names(self) -> list[str]:
        """Of all items, in order."""
        ...

    def __getitem__(self, index: int) -> Item:
        """An item; raises `IndexError` past the last."""
        ...

    def reference(self) -> Iterator[Pixels] | None:
        """Pictures that results are compared with as a set, (H, W, 3) each; None if there are none."""
        ...


def items_of(benchmark: Benchmark) -> Iterator[Item]:
    """All items, one after another."""
    return (benchmark[index] for index in range(len(benchmark.names)))


class Cocoee:
    """COCOEE, or what `coco.build_cocoee` made in its layout.

    Args:
        folder: with the layout above.

    Raises:
        DataError: a part of it is missing; the message says which.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        parts = (SOURCES, EXEMPLARS, MASKS, IDS)
        if missing := [part for part in parts if not (folder / part).exists()]:
            raise DataError(
                f"{folder} is no COCOEE folder: {', '.join(missing)} missing; unpack the archive there,"
                " or make the like with pbe evaluate build-cocoee"
            )
        try:
            ids = np.load(folder / IDS, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {folder / IDS}: {error}") from error
        if ids.ndim != 1 or ids.dtype.kind not in "iu" or not len(ids):
            raise DataError(f"{folder / IDS} must hold a list of whole numbers, got {ids.dtype} of shape {ids.shape}")
        self.ids = [int(one) for one in ids]
        lost = [path for number in self.ids for path in self.paths(number) if not path.exists()]
        if lost:
            shown = ", ".join(str(path.relative_to(folder)) for path in lost[:3])
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            raise DataError(f"{folder} lacks {shown}{more}, of {3 * len(self.ids)} pictures that {IDS} names")
        self.texts = read_texts(folder / TEXTS)
        self.title = f"COCOEE ({len(self.ids)})"

    def paths(self, number: int) -> tuple[Path, Path, Path]:
        """Where an item's source, mask and exemplar are."""
        stem = f"{number:012d}"
        return (
            self.folder / SOURCES / f"{stem}_GT.png",
            self.folder / MASKS / f"{stem}_mask.png",
            self.folder / EXEMPLARS / f"{stem}_ref.png",
        )

    @property
    def names(self) -> list[str]:
        """Twelve digits each, as the authors' script names its results."""
        return [f"{number:012d}" for number in self.ids]

    def __getitem__(self, index: int) -> Item:
        """An item, read from its files.

        Raises:
            PictureError: a file is damaged.
            MaskError: a mask selects nothing, or has another size than its source.
        """
        name = self.names[index]
        source, mask, exemplar = self.paths(self.ids[index])
        picture = load_image(source).convert("RGB")
        return Item(
            name,
            np.asarray(picture),
            load_mask(mask, picture.size),
            np.asarray(load_exemplar(exemplar)),
            text=self.texts.get(name),
        )

    def reference(self) -> Iterator[Pixels] | None:
        """The test pictures, if they are there."""
        folder = self.folder / REFERENCE
        return read_pictures(folder) if folder.is_dir() else None


class DreamEditBench:
    """DreamEditBench as published with SHINE: boxes, of a picture with the exemplar cut out beside it.

    Likeness is measured with the subject on black, as in its table.

    Args:
        folder: with the layout above.

    Raises:
        DataError: a part of it is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: list[tuple[str, str, tuple[int, int, int, int], str | None]] = []
        for listing in sorted(folder.glob("*/bg/content.json")):
            subject = listing.parent.parent.name
            try:
                for entry in json.loads(listing.read_text(encoding="utf-8")):
                    left, top, right, bottom = (int(side) for side in entry["bbox"])
                    text = entry.get("target_prompt") or entry.get("source_prompt")
                    self.entries.append((subject, Path(entry["image"]).stem, (left, top, right, bottom), text))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                raise DataError(f"cannot use {listing}: {error!r}; it must list image and bbox of each item") from error
        if not self.entries:
            raise DataError(f"{folder} is no DreamEditBench folder: there is no <subject>/bg/content.json in it")
        needed = [path for index in range(len(self.entries)) for path in self.paths(index)]
        if lost := sorted({path for path in needed if not path.exists()}):
            raise DataError(f"{folder} lacks {lost[0].relative_to(folder)}, and {len(lost) - 1} more")
        self.title = f"DreamEditBench ({len(self.entries)})"

    def paths(self, index: int) -> tuple[Path, Path, Path]:
        """Where an item's source, exemplar and the exemplar's mask are."""
        subject, name, *_ = self.entries[index]
        exemplar = self.folder / subject / "fg" / DREAM_EXEMPLAR
        return (
            self.folder / subject / "bg" / f"{name}.jpg",
            exemplar.with_suffix(".jpg"),
            exemplar.with_suffix(".png"),
        )

    @property
    def names(self) -> list[str]:
        """Folder of the subject and name of the source."""
        return [f"{subject}/{name}" for subject, name, *_ in self.entries]

    def __getitem__(self, index: int) -> Item:
        """An item, read from its files; raises what `Cocoee.__getitem__` does."""
        *_, box, text = self.entries[index]
        source, exemplar, outline = self.paths(index)
        picture, shown = load_image(source).convert("RGB"), load_exemplar(exemplar)
        scale = (picture.width / DREAM_SIDE, picture.height / DREAM_SIDE) * 2
        left, top, right, bottom = (int(side * factor) for side, factor in zip(box, scale, strict=True))
        subject = np.asarray(shown) * load_mask(outline, shown.size)[..., None]
        return Item(
            self.names[index],
            np.asarray(picture),
            box_mask((left, top, right, bottom), picture.size),
            np.asarray(shown),
            subject=subject.astype(np.uint8),
            text=text,
        )

    def reference(self) -> Iterator[Pixels] | None:
        """The sources: there are no others."""
        return (self[index].source for index in range(len(self.entries)))


def open_benchmark(folder: Path) -> Benchmark:
    """The benchmark in a folder, by its layout.

    Raises:
        DataError: it has none that is known, or a part of it is missing.
    """
    from .held_out import HeldOut

    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    if (folder / "composites.jsonl").exists():
        return HeldOut(folder)
    if any((folder / part).exists() for part in (SOURCES, EXEMPLARS, MASKS, IDS)):
        return Cocoee(folder)
    if any(folder.glob("*/bg/content.json")):
        return DreamEditBench(folder)
    raise DataError(
        f"{folder} holds no benchmark: expected {IDS} and {SOURCES} (COCOEE), <subject>/bg/content.json"
        " (DreamEditBench), or composites.jsonl (pbe prepare composites)"
    )


def read_pictures(folder: Path) -> Iterator[Pixels]:
    """All pictures of a folder, in order of their names: (H, W, 3) each.

    Raises:
        DataError: there are none.
        PictureError: one is damaged.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in READABLE_SUFFIXES)
    if not paths:
        raise DataError(f"there are no pictures in {folder}")
    return (np.asarray(load_image(path).convert("RGB")) for path in paths)


def read_texts(path: Path) -> dict[str, str]:
    """Lines of name, tab, text; none if there is no such file.

    Raises:
        DataError: a line is something else.
    """
    if not path.exists():
        return {}
    texts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, tab, text = line.partition("\t")
        if not tab or not text.strip():
            raise DataError(f"{path}, line {number}: expected a name, a tab and a text")
        texts[name] = text.strip()
    return texts
