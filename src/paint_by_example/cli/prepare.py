"""``pbe prepare``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..errors import DataError
from .arguments import UsageError


@dataclass(frozen=True)
class Prepare:
    """Turn downloaded files, or a folder of your own pictures, into training data.

    Needed are --downloads for composites, --pictures for folder, --index for shards, and --annotations with --pictures
    for the others.
    """

    dataset: tyro.conf.Positional[Literal["composites", "openimages", "coco", "lvis", "folder", "shards"]]
    """composites: cut-out objects on photographs, what the embedded model learns from. openimages, coco, lvis: an
    index of pictures and boxes from the official annotations. folder: the same from pictures with masks, with YOLO,
    Pascal VOC or COCO boxes beside them, or with neither. shards: tar files of the pictures of an index, to be
    trained on from wherever they are put."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write. openimages, coco, lvis, folder: index.jsonl, skipped.tsv; shards: shards.jsonl, tar files."""
    downloads: Path | None = None
    """composites: folder with the downloaded packages; runs/composites.sh says which."""
    pictures: Path | None = None
    """openimages, coco, lvis, folder: folder with the pictures, or with folders of them."""
    annotations: Path | None = None
    """openimages: the table of boxes (.csv); coco, lvis: the instances (.json)."""
    masks: Path | None = None
    """folder: masks under the pictures' names, white is the object."""
    detector: str | None = None
    """folder: finds the boxes where there are neither masks nor boxes: a folder or a name on the hub, of any object
    detector of transformers. Without one, boxes are drawn at random where a picture stands out."""
    min_area: float = 0.02
    """Smallest area of a box, as a share of its picture's."""
    max_area: float = 0.8
    """Largest area of a box, as a share of its picture's."""
    groups: bool = False
    """openimages, coco, lvis: keep boxes around groups and crowds."""
    depictions: bool = False
    """openimages: keep drawings and the like of an object."""
    index: Path | None = None
    """shards: the index.jsonl."""
    shard_size: int = 256
    """shards: megabytes after which another tar file is begun."""
    seed: int = 0
    """folder: seed of the boxes made up for pictures without any; shards: seed of the order."""


def prepare(options: Prepare) -> None:
    """Prepare a dataset, print what came out."""
    kind = options.dataset
    needed = {"composites": ("downloads",), "folder": ("pictures",), "shards": ("index",)}.get(
        kind, ("annotations", "pictures")
    )
    if missing := [f"--{name}" for name in needed if getattr(options, name) is None]:
        raise UsageError(f"missing: {', '.join(missing)}")
    given = {name: value for name in (*needed, "masks") if (value := getattr(options, name)) is not None}
    if kind == "composites":
        from ..data import composites

        counts = composites.prepare(given["downloads"], options.out)
    elif kind == "shards":
        from ..data import shards

        counts = shards.write_shards(given["index"], options.out, options.shard_size, options.seed)
    else:
        counts = prepare_index(options, given)
    for name, number in counts.items():
        print(f"{name}  {number:,}")


def prepare_index(options: Prepare, paths: dict[str, Path]) -> dict[str, int]:
    """Write an index of pictures and boxes, say on stderr what is wrong with it."""
    from ..data import sources

    for name, path in paths.items():
        if not path.exists():
            raise DataError(f"--{name}: there is no {path}; check the path")
    settings: dict[str, Any] = {name: str(path.resolve()) for name, path in paths.items()}
    settings |= {name: getattr(options, name) for name in ("dataset", "groups", "depictions", "seed")}
    found: Any
    made_up = 0
    if options.dataset == "openimages":
        found = sources.read_openimages(paths["annotations"], paths["pictures"], options.groups, options.depictions)
    elif options.dataset == "folder":
        folder = sources.read_folder(paths["pictures"], paths.get("masks"), options.seed)
        found, made_up = folder.found, folder.made_up
        if folder.left_out:
            note = "have no mask" if "masks" in paths else "have no boxes"
            print(f"pbe: {folder.left_out:,} pictures {note} and are left out", file=sys.stderr)
    else:
        found = sources.read_coco(paths["annotations"], paths["pictures"], options.groups)
    if made_up and options.detector is not None:
        from ..data.detector import Detector

        detector = Detector(options.detector)
        settings["detector"] = options.detector
        found = [detector.found(one.picture) for one in found]
        note = f"{options.detector} looks for objects in them, pictures in which it finds none are left out"
        print(f"pbe: no masks or boxes for any of the {made_up:,} pictures: {note}", file=sys.stderr)
    elif options.detector is not None:
        raise DataError("--detector is for a folder without masks and boxes, and here are some; leave it out")
    elif made_up:
        note = "they get random boxes where they stand out, which need not hold an object"
        print(f"pbe: no masks or boxes for any of the {made_up:,} pictures: {note}", file=sys.stderr)
    counts = sources.build_index(found, options.out, settings, options.min_area, options.max_area)
    if counts["skipped"]:
        print(f"pbe: skipped pictures are listed in {options.out / sources.SKIPPED}", file=sys.stderr)
    return counts
