"""Indexes of pictures and boxes from the files that datasets are published in, or from any folder of pictures.

    read_openimages, read_coco, read_folder  ->  Found(picture, boxes)  ->  build_index  ->  index.jsonl, skipped.tsv

Each picture is opened and decoded once, small, to find those that are broken: they are listed in ``skipped.tsv`` with
the reason. Lines are appended to a partial index as they come, so that running again goes on where it stopped. Running
again after the end adds what is new, and tries again what was skipped.
"""

from __future__ import annotations

import csv
import json
import math
import os
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from ..crops import mask_bounds
from ..errors import DataError, MaskError, PictureError
from ..images import READABLE, READABLE_SUFFIXES, Size, image_size, load_image, load_mask

INDEX, SKIPPED, SETTINGS = "index.jsonl", "skipped.tsv", "settings.json"
COCO_NAMES = ("_annotations.coco.json", "annotations.json", "instances.json")  # looked for among the pictures
SALIENT_BOXES = 3  # boxes made up for a picture without any
SALIENT_TRIES = 32  # random boxes of which each is the best
SALIENT_AREA = (0.05, 0.4)  # of the picture's
SALIENCY_SIDE = 64  # pixels of the map

Edges = tuple[float, float, float, float]  # left, top, right, bottom


class Unusable(Exception):
    """A picture whose labels cannot be used; the message says why."""


@dataclass(frozen=True)
class Found:
    """A picture and where its boxes are."""

    picture: Path
    """The file, which need not be there."""
    boxes: Callable[[Size], list[Edges]]
    """Boxes in pixels of a picture of some (width, height). May raise `Unusable`."""
    masks: tuple[Path, ...] = ()
    """Of each box, a picture that is white where the object is; empty if there are none."""


def build_index(
    found: Iterable[Found], out: Path, settings: dict[str, Any], min_area: float = 0.02, max_area: float = 0.8
) -> dict[str, int]:
    """Write ``index.jsonl`` of the boxes whose area is as asked, and ``skipped.tsv`` of the pictures that are broken.

    Args:
        found: the pictures, each once, in the same order in every run.
        out: folder to write.
        settings: all that ``found`` depends on; what was written with others is not gone on with.
        min_area: smallest area of a box, as a share of its picture's; the paper's is 0.02.
        max_area: largest one; the paper's is 0.8.

    Returns:
        Number of pictures and boxes in the index, and of skipped pictures.

    Raises:
        DataError: if the folder holds an index made with other settings, or no box is left.
    """
    if not 0 <= min_area < max_area <= 1:
        raise DataError(f"areas are shares of the picture, the least below the largest; got {min_area} and {max_area}")
    index, partial, skipped = out / INDEX, out / f"{INDEX}.partial", out / SKIPPED
    out.mkdir(parents=True, exist_ok=True)
    check_settings(out, settings | {"min_area": min_area, "max_area": max_area})
    if index.exists():
        index.replace(partial)
    done = {json.loads(line)["picture"] for line in whole_lines(partial)}
    seen: set[str] = set()
    with partial.open("a", encoding="utf-8") as lines, skipped.open("w", encoding="utf-8") as problems:
        for one in tqdm(found, desc="pictures", unit="picture", mininterval=1):
            name = os.path.relpath(one.picture, out)
            if name in seen:
                raise DataError(f"{one.picture} comes twice in the annotations: sort them by picture")
            seen.add(name)
            if name in done:
                continue
            try:
                line = make_line(one, out, min_area, max_area)
            except (Unusable, PictureError, MaskError) as error:
                problems.write(f"{name}\t{' '.join(str(error).split())}\n")
                problems.flush()
                continue
            if line is not None:
                lines.write(json.dumps(line) + "\n")
                lines.flush()
    counts = count(partial, skipped)
    if not counts["boxes"]:
        partial.unlink()
        (out / SETTINGS).unlink()  # other options may follow
        hint = f"; {counts['skipped']} pictures could not be used, see {skipped}" if counts["skipped"] else ""
        raise DataError(
            f"no box has {min_area:.1%} to {max_area:.1%} of its picture's area: give --min-area or --max-area{hint}"
        )
    partial.replace(index)
    return counts


def check_settings(out: Path, settings: dict[str, Any]) -> None:
    """Note what an index is made of, or compare with what was noted.

    Raises:
        DataError: if it is something else.
    """
    path, text = out / SETTINGS, json.dumps(settings, indent=1, sort_keys=True)
    if path.exists():
        if path.read_text(encoding="utf-8") != text:
            raise DataError(f"{out} holds an index that was made with other options, see {path}; give another folder")
        return
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that is being written, after cutting off a last one that is not whole."""
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
    return data[:end].decode("utf-8").splitlines()


def count(index: Path, skipped: Path) -> dict[str, int]:
    """Number of pictures and boxes in an index, and of skipped pictures."""
    boxes = [len(json.loads(line)["boxes"]) for line in whole_lines(index)]
    return {"pictures": len(boxes), "boxes": sum(boxes), "skipped": len(whole_lines(skipped))}


def make_line(found: Found, out: Path, min_area: float, max_area: float) -> dict[str, Any] | None:
    """A picture's line of the index, or None if no box of it is as asked.

    Raises:
        MaskError: if its mask cannot be used.
        PictureError: if the picture cannot be used.
        Unusable: if its boxes cannot be used.
    """
    size = image_size(found.picture, "picture")
    boxes, masks = [], []
    for number, edges in enumerate(found.boxes(size)):
        box = clip(edges, size)
        if box is None or not min_area <= (box[2] - box[0]) * (box[3] - box[1]) / math.prod(size) <= max_area:
            continue
        boxes.append([round(edge, 2) for edge in box])
        masks += [os.path.relpath(found.masks[number], out)] if found.masks else []
    if not boxes:
        return None
    load_image(found.picture, "picture", reduce=8)  # decoded small, to see that it can be
    line: dict[str, Any] = {"picture": os.path.relpath(found.picture, out), "boxes": boxes}
    return line | {"masks": masks} if masks else line


def clip(edges: Edges, size: Size) -> Edges | None:
    """The part of a box that lies in the picture, or None if there is none.

    Raises:
        Unusable: if it is no box.
    """
    if not all(map(math.isfinite, edges)):
        raise Unusable(f"{edges} is not a box of four numbers")
    left, top, right, bottom = edges
    box = max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1]))
    return box if box[0] < box[2] and box[1] < box[3] else None


# OpenImages


def read_openimages(
    annotations: Path, pictures: Path, groups: bool = False, depictions: bool = False
) -> Iterator[Found]:
    """Pictures of OpenImages' table of boxes, which is read as a stream: it has millions of rows.

    Args:
        annotations: such as ``oidv6-train-annotations-bbox.csv``; the rows of a picture follow each other.
        pictures: the folder with ``<ImageID>.jpg``, or with folders like ``train_0``, ``validation`` that hold them.
        groups: also boxes around groups of objects.
        depictions: also drawings and the like of an object.

    Raises:
        DataError: if the table cannot be read.
    """
    try:
        with annotations.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            needed = {"ImageID", "XMin", "XMax", "YMin", "YMax", "IsGroupOf", "IsDepiction"}
            if missing := needed - set(rows.fieldnames or ()):
                raise DataError(
                    f"{annotations} has no column {', '.join(sorted(missing))}: is it OpenImages' of boxes?"
                )
            for name, group in groupby(rows, key=lambda row: str(row["ImageID"])):
                shares = []
                for row in group:
                    if (row["IsGroupOf"] == "1" and not groups) or (row["IsDepiction"] == "1" and not depictions):
                        continue
                    try:
                        shares.append(tuple(float(row[edge]) for edge in ("XMin", "YMin", "XMax", "YMax")))
                    except (TypeError, ValueError):
                        raise DataError(f"{annotations}, line {rows.line_num}: a box without four numbers") from None
                if shares:
                    folders = ("", f"train_{name[:1]}", "train", "validation", "test")
                    yield Found(locate(pictures, [f"{folder}/{name}.jpg" for folder in folders]), scaled(shares))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {annotations}: {error}") from error


def locate(pictures: Path, names: list[str]) -> Path:
    """The first of some files that is there, or else the first."""
    paths = [pictures / name.lstrip("/") for name in names]
    return next((path for path in paths if os.path.exists(path)), paths[0])  # a name may be too long to ask for


def scaled(shares: list[Any]) -> Callable[[Size], list[Edges]]:
    """Boxes in shares of the picture's sides."""
    return lambda size: [
        (left * size[0], top * size[1], right * size[0], bottom * size[1]) for left, top, right, bottom in shares
    ]


# COCO and LVIS


def read_coco(annotations: Path, pictures: Path, groups: bool = False) -> Iterator[Found]:
    """Pictures of a file of instances in COCO's layout, which is LVIS's too. It is read whole.

    Args:
        annotations: such as ``instances_train2017.json`` or ``lvis_v1_train.json``.
        pictures: the folder with the pictures, or with folders like ``train2017`` that hold them.
        groups: also boxes around crowds.

    Raises:
        DataError: if the file cannot be read or is not in this layout.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8"))
        boxes: dict[Any, list[Edges]] = {}
        for entry in content["annotations"]:
            if groups or not entry.get("iscrowd", 0):
                left, top, width, height = map(float, entry["bbox"])
                boxes.setdefault(entry["image_id"], []).append((left, top, left + width, top + height))
        entries = [
            (str(entry.get("file_name") or entry["coco_url"]), entry.get("width"), entry.get("height"), found)
            for entry in content["images"]
            if (found := boxes.get(entry["id"]))
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {annotations}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{annotations} is not in COCO's layout of instances ({problem})") from error
    for name, width, height, found in entries:
        last = "/".join(name.split("/")[-2:])  # train2017/000000000009.jpg
        path = locate(pictures, [name if "://" not in name else last, last, name.split("/")[-1]])
        yield Found(path, of_size(found, (width, height)))


def of_size(boxes: list[Edges], expected: tuple[int | None, int | None]) -> Callable[[Size], list[Edges]]:
    """Boxes in pixels of a picture that should be of a certain size."""

    def checked(size: Size) -> list[Edges]:
        if None not in expected and size != expected:
            raise Unusable(f"it is {size[0]} x {size[1]} pixels, its boxes are for {expected[0]} x {expected[1]}")
        return boxes

    return checked


# A folder of pictures


@dataclass(frozen=True)
class Folder:
    """What was found in a folder."""

    found: list[Found]
    made_up: int = 0
    """For how many pictures the boxes are made up."""
    left_out: int = 0
    """How many pictures have no box where others have."""


def read_folder(pictures: Path, masks: Path | None = None, seed: int = 0) -> Folder:
    """Pictures in a folder and all below it, with masks, with boxes beside them, or with neither.

    Masks lie in a folder of their own under the picture's name and white is the object: ``a.png`` for ``a.jpg``, or
    several in ``a/``. Boxes lie beside the picture, in ``a.txt`` (YOLO; also in ``labels/`` for ``images/``) or
    ``a.xml`` (Pascal VOC), or of all pictures in one file of COCO's layout, named as in `COCO_NAMES`. Where there is
    any of this, pictures without are left out. Where there is none, boxes are made up: random ones where the picture
    stands out.

    Args:
        pictures: the folder.
        masks: the folder with the masks.
        seed: of boxes that are made up.

    Raises:
        DataError: if there is no picture in it, or no mask for any.
    """
    files = [
        path
        for path in sorted(pictures.rglob("*"))
        if path.suffix.lower() in READABLE_SUFFIXES and not (masks and masks.resolve() in path.resolve().parents)
    ]
    if not files:
        raise DataError(f"no picture in {pictures}: expected files of {', '.join(READABLE)}")
    if masks is not None:
        found = [one for path in files if (one := with_masks(path, masks / path.relative_to(pictures))) is not None]
        if not found:
            raise DataError(f"no picture in {pictures} has a mask in {masks}: {files[0].stem}.png for {files[0].name}")
    elif coco := next((pictures / name for name in COCO_NAMES if (pictures / name).exists()), None):
        found = list(read_coco(coco, pictures))
    else:
        found = [one for path in files if (one := with_labels(path)) is not None]
    if found:
        return Folder(found, left_out=len(set(files) - {one.picture for one in found}))
    boxes = (made_up(path, (seed, zlib.crc32(str(path.relative_to(pictures)).encode()))) for path in files)
    return Folder([Found(path, box) for path, box in zip(files, boxes, strict=True)], made_up=len(files))


def with_masks(picture: Path, place: Path) -> Found | None:
    """A picture with its masks, or None if it has none."""
    masks = [place.with_suffix(suffix) for suffix in READABLE_SUFFIXES if place.with_suffix(suffix).exists()][:1]
    folder = place.with_suffix("")
    if not masks and folder.is_dir():
        masks = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READABLE_SUFFIXES]

    def boxes(size: Size) -> list[Edges]:
        return [mask_bounds(load_mask(mask, size)) for mask in masks]

    return Found(picture, boxes, tuple(masks)) if masks else None


def with_labels(picture: Path) -> Found | None:
    """A picture with the boxes in a file beside it, or None if there is no such file."""
    parts = list(picture.parts)
    places = [picture]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.append(Path(*parts[:last], "labels", *parts[last + 1 :]))
    for place in places:
        if (label := place.with_suffix(".txt")).exists():
            return Found(picture, lambda size, label=label: read_yolo(label, size))  # type: ignore[misc]
        if (label := place.with_suffix(".xml")).exists():
            return Found(picture, lambda size, label=label: read_voc(label, size))  # type: ignore[misc]
    return None


def read_yolo(label: Path, size: Size) -> list[Edges]:
    """Boxes of a YOLO file: a line is class, centre x, centre y, width, height, in shares of the picture's sides.

    Raises:
        Unusable: if it is no such file.
    """
    boxes = []
    try:
        for line in label.read_text(encoding="utf-8").splitlines():
            if line.strip():
                _, x, y, width, height = map(float, line.split())
                boxes.append((x - width / 2, y - height / 2, x + width / 2, y + height / 2))
    except (OSError, ValueError):
        raise Unusable(f"{label} is not in YOLO's layout: class, centre x, centre y, width, height in shares") from None
    return scaled(boxes)(size)


def read_voc(label: Path, size: Size) -> list[Edges]:
    """Boxes of a Pascal VOC file, whose pixels are counted from 1 with the last one included.

    Raises:
        Unusable: if it is no such file.
    """
    try:
        root = ElementTree.parse(label).getroot()
        corners = [
            [float(box.findtext(edge, "")) for edge in ("xmin", "ymin", "xmax", "ymax")] for box in root.iter("bndbox")
        ]
    except (OSError, ValueError, ElementTree.ParseError):
        raise Unusable(f"{label} is not in Pascal VOC's layout") from None
    return [(left - 1, top - 1, right, bottom) for left, top, right, bottom in corners]


def made_up(picture: Path, seed: tuple[int, int]) -> Callable[[Size], list[Edges]]:
    """Random boxes in the parts of a picture that stand out."""

    def boxes(size: Size) -> list[Edges]:
        grey = np.asarray(load_image(picture, "picture", reduce=8).convert("L"))
        return salient_boxes(np.random.default_rng(seed), saliency(grey), size)

    return boxes


def saliency(grey: np.ndarray) -> np.ndarray:
    """Where a picture stands out: what its spectrum has more than the average of its neighbours (Hou and Zhang, 2007).

    Args:
        grey: (H, W) uint8.

    Returns:
        (`SALIENCY_SIDE`, `SALIENCY_SIDE`) float64, at least 0, with a mean of 1.
    """
    small = cv2.resize(grey, (SALIENCY_SIDE, SALIENCY_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    spectrum = np.fft.fft2(small)
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    residual = np.exp(amplitude - cv2.blur(amplitude, (3, 3)) + 1j * np.angle(spectrum))
    energy = cv2.GaussianBlur(np.abs(np.fft.ifft2(residual)) ** 2, (0, 0), SALIENCY_SIDE / 24)
    return np.asarray(energy / max(float(energy.mean()), 1e-12))


def salient_boxes(rng: np.random.Generator, shown: np.ndarray, size: Size) -> list[Edges]:
    """Random boxes, each the one with the highest mean saliency of a few.

    Args:
        rng: source of randomness.
        shown: (M, M), see `saliency`.
        size: (width, height) of the picture.

    Returns:
        `SALIENT_BOXES` boxes with areas in `SALIENT_AREA`.
    """
    side = len(shown)
    sums = np.pad(shown.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    boxes: list[Edges] = []
    for _ in range(SALIENT_BOXES):
        tries = []
        for _ in range(SALIENT_TRIES):
            area, aspect = rng.uniform(*SALIENT_AREA), math.exp(rng.uniform(-0.5, 0.5))
            w, h = min(math.sqrt(area * aspect), 1.0), min(math.sqrt(area / aspect), 1.0)
            left, top = rng.uniform(0, 1 - w), rng.uniform(0, 1 - h)
            x0, y0 = int(left * side), int(top * side)
            x1, y1 = max(int((left + w) * side), x0 + 1), max(int((top + h) * side), y0 + 1)
            mean = (sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]) / ((x1 - x0) * (y1 - y0))
            tries.append((float(mean), (left, top, left + w, top + h)))
        boxes += scaled([max(tries)[1]])(size)
    return boxes
