"""Training examples a second and core: our dataset, and the authors' way of making the same ones.

    python benchmarks/data.py [--json]

The pictures are JPEG files made here of scikit-image's sample photographs, half of them of 1024 x 768 pixels and half
of 2048 x 1536, with a random box in each. The baseline is written anew after a description of the authors' code: each
picture decoded twice, with PIL and with OpenCV; picture and mask as float tensors of the picture's full size, cropped
and resized as tensors; every point of a mask's outline from an evaluation of its own; the exemplar warped by a field
that is smoothed in double precision with a deviation of 50 pixels. All ways run in one process with one thread, on the
same files in turn, and end at the same tensors: source, masked source, mask, normalised exemplar.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage import data
from torch import Tensor

from paint_by_example.data.dataset import BoxDataset
from paint_by_example.data.recipes import RECIPES

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
SIZES = ((1024, 768), (2048, 1536))


@dataclass
class Options:
    """Time both ways."""

    pictures: int = 60
    """How many files."""
    repeats: int = 3
    """Rounds over all files; medians over rounds are printed."""
    json: bool = False
    """Print one JSON object."""


def make_pictures(folder: Path, count: int) -> Path:
    """Photographs in two sizes, with a box of 2% to 60% of the area in each; gives the index."""
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    rng = np.random.default_rng(0)
    lines = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        photograph = Image.fromarray(photographs[number % len(photographs)])
        photograph.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        share, aspect = rng.uniform(0.02, 0.6), np.exp(rng.uniform(-0.3, 0.3))
        w = min(np.sqrt(share * width * height * aspect), width - 1)
        h = min(share * width * height / w, height - 1)
        left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
        box = [float(edge) for edge in (left, top, left + w, top + h)]
        lines.append(json.dumps({"picture": f"{number}.jpg", "boxes": [box]}) + "\n")
    (folder / "index.jsonl").write_text("".join(lines))
    return folder / "index.jsonl"


# The authors' way, in our words


def authors_item(path: Path, box: list[float]) -> dict[str, Tensor]:
    """One example; the mask is 1 where the picture is kept, as theirs."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    left, top, right, bottom = (int(edge) for edge in box)
    pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    padded = pixels[max(top - 10, 0) : min(bottom + 10, height), max(left - 10, 0) : min(right + 10, width)]
    exemplar = normalised(to_tensor(authors_augment(padded)), MEAN, STD)

    source = normalised(to_tensor(np.asarray(picture)), (0.5,) * 3, (0.5,) * 3)
    free = (left, top, width - right, height - bottom)
    grown = [random.randint(0, int(0.4 * space)) for space in free]
    extended = left - grown[0], top - grown[1], right + grown[2], bottom + grown[3]
    if random.random() < 0.5:
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        outline = authors_outline((left, top, right, bottom), extended)
        moved = [(x + random.randint(-5, 5), y + random.randint(-5, 5)) for x, y in outline]
        ImageDraw.Draw(canvas).polygon(moved, fill=(0, 0, 0))
        mask = to_tensor(np.asarray(canvas))[0:1]
    else:
        filled = np.zeros((height, width))
        filled[extended[1] : extended[3], extended[0] : extended[2]] = 1
        mask = 1 - torch.tensor(filled, dtype=torch.float32)[None]

    if width > height:
        first, last = max(extended[2] - height, 0), min(extended[0] + height, width) - height
        if last > first:
            x = random.randint(first, last)
            space = min(extended[1], extended[0] - x, x + height - extended[2], height - extended[3])
            shaved = random.randint(0, int(0.6 * space))
            source = source[:, shaved : height - shaved, x + shaved : x + height - shaved]
            mask = mask[:, shaved : height - shaved, x + shaved : x + height - shaved]
    source, mask = (
        torch.nn.functional.interpolate(part[None], (512, 512), mode="bilinear", align_corners=False)[0]
        for part in (source, mask)
    )
    return {"source": source, "masked": source * mask, "mask": mask, "exemplar": exemplar}


def to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().float().div(255)


def normalised(picture: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    return (picture.clone() - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def authors_outline(tight: tuple[int, int, int, int], extended: tuple[int, int, int, int]) -> list[tuple[float, float]]:
    """18 points a side, each evaluated by itself, without those of which a coordinate was there before."""
    left, top, right, bottom = tight
    middle_x, middle_y = (left + right) / 2, (top + bottom) / 2
    curves = (
        ((left, top), (middle_x, extended[1]), (right, top)),
        ((right, top), (extended[2], middle_y), (right, bottom)),
        ((right, bottom), (middle_x, extended[3]), (left, bottom)),
        ((left, bottom), (extended[0], middle_y), (left, top)),
    )
    points: list[tuple[float, float]] = []
    for curve in curves:
        nodes = np.asfortranarray(np.array(curve, np.float64).T)
        xs: list[float] = []
        ys: list[float] = []
        for number in range(1, 19):
            t = number * 0.05
            x, y = nodes @ np.array([(1 - t) ** 2, 2 * t * (1 - t), t * t])
            if x not in xs and y not in ys:
                xs.append(x)
                ys.append(y)
                points.append((x, y))
    return points


def authors_augment(crop: np.ndarray) -> np.ndarray:
    side = 224
    picture = cv2.resize(crop, (side, side), interpolation=cv2.INTER_LINEAR)
    warp = {"dsize": (side, side), "flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REFLECT_101}
    if random.random() < 0.5:
        picture = np.ascontiguousarray(picture[:, ::-1])
    if random.random() < 0.5:
        matrix = cv2.getRotationMatrix2D((side / 2, side / 2), random.uniform(-20, 20), 1.0)
        picture = cv2.warpAffine(picture, matrix, **warp)
    if random.random() < 0.3:
        picture = cv2.blur(picture, (random.choice((3, 5, 7)),) * 2)
    if random.random() < 0.3:
        state = np.random.RandomState(random.randint(0, 10000))
        anchors = np.float32([[186, 186], [186, 38], [38, 38]])
        moved = anchors + state.uniform(-50, 50, anchors.shape).astype(np.float32)
        picture = cv2.warpAffine(picture, cv2.getAffineTransform(anchors, moved), **warp)
        dx, dy = (gaussian_filter(state.rand(side, side) * 2 - 1, 50).astype(np.float32) for _ in range(2))
        x, y = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
        picture = cv2.remap(picture, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return picture


# Ours


def our_item(dataset: BoxDataset, number: int) -> dict[str, Tensor]:
    """The dataset's item, and what the trainer makes of it on its device, so that both ways end at the same."""
    item = dataset[number]
    source, mask = torch.from_numpy(item["source"]), torch.from_numpy(item["mask"])
    exemplar = normalised(to_tensor(item["exemplar"]), MEAN, STD)
    return {"source": source, "masked": source * (1 - mask), "mask": mask, "exemplar": exemplar}


def seconds(make: Callable[[int], object], numbers: list[int]) -> float:
    start = time.process_time()  # of this process alone: the machine may be doing other things
    for number in numbers:
        make(number)
    return time.process_time() - start


def measure(options: Options) -> dict[str, float]:
    """Items a second and core, for both sizes and all."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        index = make_pictures(Path(folder), options.pictures)
        datasets = {name: BoxDataset(index, recipe=RECIPES[name]) for name in ("default", "released")}
        lines = datasets["default"].lines
        ways: dict[str, Callable[[int], object]] = {
            "authors": lambda number: authors_item(
                index.parent / lines[number].picture, lines[number].boxes[0].tolist()
            ),
            "default": lambda number: our_item(datasets["default"], number),
            "released": lambda number: our_item(datasets["released"], number),
        }
        times: dict[tuple[str, int], list[float]] = {}
        for epoch in range(options.repeats + 1):
            for dataset in datasets.values():
                dataset.epoch = epoch
            for place, (width, _) in enumerate(SIZES):
                for name, make in ways.items():
                    taken = seconds(make, list(range(place, options.pictures, len(SIZES))))
                    if epoch:  # the first round fills caches
                        times.setdefault((name, width), []).append(taken)
    figures: dict[str, float] = {}
    count = {width: len(range(place, options.pictures, len(SIZES))) for place, (width, _) in enumerate(SIZES)}
    for name in ways:
        taken = {width: statistics.median(times[name, width]) for width in count}
        for width in count:
            figures[f"{name}_{width}"] = round(count[width] / taken[width], 2)
        figures[f"{name}_all"] = round(options.pictures / sum(taken.values()), 2)
    for name in ("default", "released"):
        for part in (*count, "all"):
            figures[f"{name}_against_authors_{part}"] = round(figures[f"{name}_{part}"] / figures[f"authors_{part}"], 2)
    return figures


if __name__ == "__main__":
    given = tyro.cli(Options)
    results = measure(given)
    if given.json:
        print(json.dumps(results))
    else:
        for name, value in results.items():
            print(f"{name.replace('_', ' '):32}{value}")
