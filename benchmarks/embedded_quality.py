"""How well the embedded model paints what it is shown, on objects and backgrounds it has never seen.

For each of 200 held-out edits the painted region's features are compared with those of 100 held-out exemplars: is the
one asked for the nearest, or among the five nearest? Chance is 1% and 5%. The features are those of EfficientNet-Lite2,
which conditions nothing (the model sees through Lite0). Controls: the same holes painted after a wrong exemplar and
after none (the null token). Ceilings: the true object in the scene, and the exemplar itself pasted into the hole.

How real it looks is told by the Fréchet distance of the same features between what fills the holes and the true objects
in as many other held-out scenes; the less, the better. It depends on the number of edits: compare rows of one run.

    python benchmarks/embedded_quality.py [--json] [--sheet docs/images/held_out.png]
    python benchmarks/embedded_quality.py --rival FOLDER      a row more, of another model's results, 0000.png and so on

The held-out pictures are built from packages by runs/train_embedded.sh, steps 1 and 2.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from paint_by_example import load_pipeline
from paint_by_example.evaluation.baselines import cut_and_paste
from paint_by_example.evaluation.benchmark import Item, Pixels, items_of
from paint_by_example.evaluation.editing import paint
from paint_by_example.evaluation.features import FeatureCache, load_extractor
from paint_by_example.evaluation.frechet import frechet_distance
from paint_by_example.evaluation.held_out import HeldOut
from paint_by_example.evaluation.likeness import painted_box, retrieval
from paint_by_example.evaluation.statistics import Moments
from paint_by_example.images import load_image, save_image
from paint_by_example.pipeline import PaintByExamplePipeline

GUIDANCE_SCALES = (1.0, 2.0, 3.0, 5.0, 8.0)


@dataclass
class Options:
    """Measure a model on held-out edits."""

    data: Path = Path("data/composites")
    """Folder from `pbe prepare composites`."""
    model: str = "embedded"
    """Model to measure."""
    edits: int = 200
    """Held-out edits; at least 200 for a figure to be quoted."""
    guidance_scale: float = 5.0
    """λ of the main figure."""
    steps: int | None = None
    """Sampling steps; the model's own by default."""
    seed: int = 0
    """Of scenes and noise."""
    batch_size: int = 20
    """Edits painted at once."""
    sweep: int = 100
    """Edits for each λ of the sweep; 0 leaves it out."""
    sheet: Path | None = None
    """Also draw the first edits as a contact sheet."""
    sheet_edits: int = 40
    """How many of them."""
    rival: Path | None = None
    """Folder of another model's results for the same edits, as `pbe evaluate run` writes them."""
    json: bool = False
    """Print one JSON object."""


def paint_all(
    pipeline: PaintByExamplePipeline, items: list[Item], conditions: Tensor, guidance_scale: float, options: Options
) -> list[Pixels]:
    """Paint every item under its own condition."""
    results: list[Pixels] = []
    count = len(conditions)
    for start in tqdm(range(0, count, options.batch_size), desc=f"painting, guidance {guidance_scale:g}", leave=False):
        part = slice(start, min(start + options.batch_size, count))
        results += paint(
            pipeline,
            items[part],
            conditions[part],
            range(part.start, part.stop),
            guidance_scale=guidance_scale,
            steps=options.steps or pipeline.default_steps(pipeline.scheduler),
        )
    return results


class Scores:
    """Scores results of a benchmark's items.

    Args:
        benchmark: whose exemplars.
        items: all of it.
        others: as many items of other scenes.
    """

    def __init__(self, benchmark: HeldOut, items: list[Item], others: list[Item]) -> None:
        self.extractor, self.cache = load_extractor("efficientnet-lite2"), FeatureCache()
        self.items, self.right = items, np.array([benchmark.right(index) for index in range(len(items))])
        self.gallery = self.cache.features(self.extractor, benchmark.gallery, "squash")
        self.real = Moments.of(self.features([item.source for item in others], others))

    def features(self, pictures: Sequence[Pixels], items: list[Item]) -> np.ndarray:
        """Of what fills the holes, (n, D)."""
        boxes = [painted_box(picture, item.mask) for picture, item in zip(pictures, items, strict=False)]
        return self.cache.features(self.extractor, boxes, "squash")

    def __call__(self, pictures: Sequence[Pixels]) -> dict[str, float]:
        """Share of boxes whose exemplar is the nearest, among the five nearest, mean similarity to it; realism.

        Args:
            pictures: results of the first items, or of all.
        """
        features = self.features(pictures, self.items)
        rank, likeness = retrieval(features, self.gallery, self.right[: len(pictures)])
        return {
            "top1": round(100 * float((rank < 1).mean()), 1),
            "top5": round(100 * float((rank < 5).mean()), 1),
            "likeness": round(float(likeness.mean()), 4),
            "frechet": round(frechet_distance(Moments.of(features), self.real), 4),
        }


def read_results(folder: Path, names: list[str]) -> list[Pixels]:
    """Results by the names of their items."""
    return [np.asarray(load_image(folder / f"{name}.png").convert("RGB")) for name in names]


def draw_sheet(path: Path, items: list[Item], painted: list[Pixels], count: int, columns: int = 4) -> None:
    """Masked source, exemplar and result of the first edits, side by side."""
    side = painted[0].shape[1]
    rows = (count + columns - 1) // columns
    gap, header = 12, 18
    sheet = Image.new("RGB", (columns * (3 * side + gap), header + rows * (side + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        for position, label in enumerate(("source and mask", "exemplar", "result")):
            pen.text((column * (3 * side + gap) + position * side + 4, 3), label, fill="black")
    for index, (item, result) in enumerate(zip(items[:count], painted, strict=False)):
        row, column = divmod(index, columns)
        masked = np.where(item.mask[..., None], np.uint8(128), item.source)
        exemplar = cv2.resize(item.exemplar, (side, side), interpolation=cv2.INTER_AREA)
        strip = np.hstack([masked, exemplar, result])
        sheet.paste(Image.fromarray(strip), (column * (3 * side + gap), header + row * (side + 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path)


@torch.inference_mode()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    started = time.perf_counter()
    pipeline = load_pipeline(options.model)
    size, exemplar_size = pipeline.image_size, pipeline.image_encoder.image_size
    benchmark = HeldOut(options.data, options.edits, size, exemplar_size, options.seed)
    others = HeldOut(options.data, options.edits, size, exemplar_size, options.seed + 1)
    items, count = list(items_of(benchmark)), len(benchmark.gallery)
    figures = Scores(benchmark, items, list(items_of(others)))
    numbers = figures.right
    conditions = pipeline.encode_exemplar(np.stack(benchmark.gallery))
    right = conditions[numbers]
    wrong = conditions[(numbers + count // 2) % count]
    null = pipeline.image_encoder.uncond_vector.expand(len(right), -1, -1)

    painted = paint_all(pipeline, items, right, options.guidance_scale, options)
    result: dict[str, Any] = {
        **figures(painted),
        "controls": {
            "wrong exemplar": figures(paint_all(pipeline, items, wrong, options.guidance_scale, options)),
            "null token": figures(paint_all(pipeline, items, null, 1.0, options)),
            "true object": figures([item.source for item in items]),
            "cut and paste": figures([cut_and_paste(item) for item in items]),
        }
        | ({} if options.rival is None else {"rival": figures(read_results(options.rival, benchmark.names))}),
        "guidance": {},
        "edits": options.edits,
        "gallery": count,
        "guidance_scale": options.guidance_scale,
    }
    for scale in GUIDANCE_SCALES if options.sweep else ():
        few = paint_all(pipeline, items, right[: options.sweep], scale, options)
        result["guidance"][f"{scale:g}"] = figures(few)
    if options.sheet is not None:
        draw_sheet(options.sheet, items, painted, min(options.sheet_edits, len(painted)))
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    rows = [(f"edits, guidance {result['guidance_scale']:g}", result), *result["controls"].items()]
    rows += [(f"first edits, guidance {scale}", figures) for scale, figures in result["guidance"].items()]
    print(f"{'':26}{'top-1 %':>9}{'top-5 %':>9}{'likeness':>10}{'Fréchet':>9}")
    for name, figures in rows:
        print(
            f"{name:26}{figures['top1']:9.1f}{figures['top5']:9.1f}{figures['likeness']:10.4f}{figures['frechet']:9.1f}"
        )
    print(f"{'chance':26}{100 / result['gallery']:9.1f}{500 / result['gallery']:9.1f}")
    print(f"{result['edits']} held-out edits, {result['gallery']} held-out exemplars, {result['seconds']} s")


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        show(figures)
