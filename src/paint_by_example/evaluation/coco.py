"""A benchmark like COCOEE from COCO's annotations, since the published archive may vanish.

As in the paper, sources come from the validation pictures, a box each, and exemplars of the same class from the
training pictures; a mask covers at most half its picture. The authors chose exemplars by hand; here a seed does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..crops import box_mask
from ..errors import DataError, PictureError
from ..images import READABLE_SUFFIXES, Box, load_image, save_image
from .benchmark import EXEMPLARS, IDS, MASKS, REFERENCE, SOURCES, TEXTS

SIDE = 512  # pixels, of sources and masks
COUNT = 3500
AREA = (0.02, 0.5)  # of the mask, as a share of the square
SMALLEST = 64  # pixels, of an exemplar's shorter side
PADDING = 10  # pixels around an exemplar, as in training
TRIES = 20  # exemplars that are looked at before a source is given up


@dataclass(frozen=True)
class Instance:
    """An object in a picture."""

    number: int
    """Of the annotation."""
    picture: Path
    size: tuple[int, int]
    """Of the picture: width, height."""
    box: Box
    category: int


def read_instances(annotations: Path, pictures: Path) -> tuple[list[Instance], dict[int, str]]:
    """All objects of a file of instances but crowds, in order of their numbers, and the categories' names.

    Args:
        annotations: such as ``instances_val2017.json``.
        pictures: the folder with the pictures.

    Raises:
        DataError: the file cannot be read, or is not in COCO's layout.
    """
    try:
        content: Any = json.loads(annotations.read_text(encoding="utf-8"))
        names = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
        files = {
            entry["id"]: (pictures / str(entry["file_name"]), (int(entry["width"]), int(entry["height"])))
            for entry in content["images"]
        }
        instances = []
        for entry in content["annotations"]:
            if not entry.get("iscrowd", 0):
                left, top, width, height = map(float, entry["bbox"])
                path, size = files[entry["image_id"]]
                box = (round(left), round(top), round(left + width), round(top + height))
                instances.append(Instance(int(entry["id"]), path, size, box, int(entry["category_id"])))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {annotations}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise DataError(f"{annotations} is not in COCO's layout of instances ({problem})") from error
    return sorted(instances, key=lambda one: one.number), names


def build_cocoee(
    val: tuple[Path, Path],
    train: tuple[Path, Path],
    out: Path,
    count: int = COUNT,
    seed: int = 0,
    test_pictures: Path | None = None,
) -> dict[str, int]:
    """Write a benchmark in COCOEE's layout. Run again, it goes on where it stopped.

    Args:
        val: annotations and pictures of the sources.
        train: annotations and pictures of the exemplars.
        out: folder to write.
        count: items; fewer where there are not as many.
        seed: of the choice of sources and exemplars.
        test_pictures: pictures to cut squares of, what results are compared with as a set.

    Returns:
        How many items and reference pictures there are, and how many pictures could not be used.

    Raises:
        DataError: annotations cannot be read, or no item can be made of them.
    """
    instances, names = read_instances(*val)
    exemplars, train_names = read_instances(*train)
    by_name: dict[str, list[Instance]] = {}
    for one in exemplars:
        if min(one.box[2] - one.box[0], one.box[3] - one.box[1]) >= SMALLEST:
            by_name.setdefault(train_names.get(one.category, ""), []).append(one)
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, str]] = []
    pictures: set[Path] = set()
    skipped = 0
    for folder in (SOURCES, EXEMPLARS, MASKS):
        (out / folder).mkdir(parents=True, exist_ok=True)
    with tqdm(total=count, desc="items", unit="item", mininterval=1) as bar:
        for index in rng.permutation(len(instances)):
            one = instances[index]
            name = names.get(one.category, "")
            square = square_around(one)
            if len(chosen) == count or one.picture in pictures or square is None or name not in by_name:
                continue
            order = np.random.default_rng((seed, one.number)).integers(len(by_name[name]), size=TRIES)
            try:
                write_item(out, one, square, (by_name[name][int(number)] for number in order))
            except PictureError:
                skipped += 1
                continue
            chosen.append((one.number, name))
            pictures.add(one.picture)
            bar.update()
    if not chosen:
        raise DataError(
            f"no item can be made of {val[0]} and {train[0]}: there must be boxes of {AREA[0]:.0%} to {AREA[1]:.0%} of"
            f" a square, an exemplar of the same class, and their pictures; {skipped} pictures could not be read"
        )
    chosen.sort()
    lines = "".join(f"{number:012d}\t{name}\n" for number, name in chosen)
    (out / TEXTS).write_text(lines, encoding="utf-8")
    squares = cut_squares(test_pictures, out / REFERENCE) if test_pictures is not None else 0
    np.save(
        out / IDS, np.array([number for number, _ in chosen], np.int64)
    )  # last: without it the folder is no benchmark
    return {"items": len(chosen), "reference pictures": squares, "unusable": skipped}


def square_around(one: Instance) -> Box | None:
    """The square of the picture's shorter side around an object, or None if its mask would not be of a fitting size."""
    width, height = one.size
    side = min(width, height)
    left, top, right, bottom = max(one.box[0], 0), max(one.box[1], 0), min(one.box[2], width), min(one.box[3], height)
    share = (right - left) * (bottom - top) / side**2
    if min(right - left, bottom - top) < 1 or max(right - left, bottom - top) > side or not AREA[0] <= share <= AREA[1]:
        return None
    x, y = (
        min(max((first + last - side) // 2, 0), length - side)
        for first, last, length in ((left, right, width), (top, bottom, height))
    )
    return x, y, x + side, y + side


def write_item(out: Path, one: Instance, square: Box, exemplars: Iterator[Instance]) -> None:
    """Write source, exemplar and mask of an item, unless they are there.

    Raises:
        PictureError: the source cannot be used, or none of the exemplars.
    """
    stem = f"{one.number:012d}"
    source, exemplar, mask = (
        out / folder / f"{stem}_{what}.png" for folder, what in ((SOURCES, "GT"), (EXEMPLARS, "ref"), (MASKS, "mask"))
    )
    if source.exists() and exemplar.exists() and mask.exists():
        return
    picture = load_image(one.picture).convert("RGB")
    if picture.size != one.size:
        raise PictureError(f"{one.picture} is not of the size that its annotation says")
    save_image(picture.crop(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC), source)
    for other in exemplars:
        try:
            shown = load_image(other.picture).convert("RGB")
        except PictureError:
            continue
        left, top, right, bottom = other.box
        box = (
            max(left - PADDING, 0),
            max(top - PADDING, 0),
            min(right + PADDING, shown.width),
            min(bottom + PADDING, shown.height),
        )
        save_image(shown.crop(box), exemplar)
        break
    else:
        raise PictureError(f"none of {TRIES} exemplars for {one.picture} can be read")
    scale = SIDE / (square[2] - square[0])
    left, top, right, bottom = (
        round((edge - start) * scale) for edge, start in zip(one.box, (square[0], square[1]) * 2, strict=True)
    )
    save_image(Image.fromarray(box_mask((left, top, right, bottom), (SIDE, SIDE))), mask)


def cut_squares(pictures: Path, out: Path) -> int:
    """The middle square of each picture at 512 pixels, as the authors' script makes the set to compare with.

    Args:
        pictures: a folder.
        out: a folder; what is there stays.

    Returns:
        How many there are.

    Raises:
        DataError: there are no pictures.
        PictureError: one is damaged.
    """
    paths = sorted(path for path in pictures.iterdir() if path.suffix.lower() in READABLE_SUFFIXES)
    if not paths:
        raise DataError(f"there are no pictures in {pictures}")
    out.mkdir(parents=True, exist_ok=True)
    for path in tqdm(paths, desc="reference pictures", unit="picture", mininterval=1):
        target = out / f"{path.stem}.png"
        if target.exists():
            continue
        picture = load_image(path).convert("RGB")
        scale = SIDE / min(picture.size)
        size = (max(SIDE, int(picture.width * scale)), max(SIDE, int(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = ((length - SIDE) // 2 for length in size)
        save_image(picture.crop((left, top, left + SIDE, top + SIDE)), target)
    return len(paths)
