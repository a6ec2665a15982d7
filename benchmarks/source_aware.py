"""What an edit keeps of what stood there: plain edits against those that are told more of the source.

    python benchmarks/source_aware.py [--model runs-out/source-aware/model] [--edits 200] [--json ...] [--sheet ...]

Held-out scenes under strong light, with an object in them that no model was trained on. The object is painted anew
after its picture on white, which shows neither its pose nor the light. So the truth is known: the scene itself.

Structure is the agreement of edges with the truth's within the region, colour the mean difference of both when blurred
(8 pixels; grey levels), seam the step along the region's edge (grey levels), likeness the mean centred cosine of the
painted box and the exemplar, and Fréchet the distance of painted boxes to those of other true scenes, both by
EfficientNet-Lite2. Intervals are of 95%, by bootstrap over the edits; those of ratios to the plain edits are paired.
Controls: the truth, and the structure of another scene, which must not help. What being told costs is the median time
of one edit, in turn with a plain one, both by torch.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
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
from paint_by_example.evaluation import frechet
from paint_by_example.evaluation.benchmark import Item, Pixels, items_of
from paint_by_example.evaluation.edges import edge_agreement
from paint_by_example.evaluation.editing import paint
from paint_by_example.evaluation.features import FeatureCache, load_extractor
from paint_by_example.evaluation.held_out import HeldOut
from paint_by_example.evaluation.likeness import painted_box, retrieval
from paint_by_example.evaluation.seam import seam_visibility
from paint_by_example.evaluation.statistics import Moments
from paint_by_example.harmonise import harmonise
from paint_by_example.images import save_image
from paint_by_example.pipeline import PaintByExamplePipeline
from paint_by_example.sampling import default_steps
from paint_by_example.structure import edges, soft_edges

BLUR = 8.0  # pixels, for colour
RESAMPLES = 1000


@dataclass
class Options:
    """Measure all ways to be told of the source."""

    data: Path = Path("data/composites")
    """Folder from `pbe prepare composites`."""
    model: str = "embedded"
    """Model to measure; what it has not learned is left out."""
    edits: int = 200
    """Held-out edits; at least 200 for a figure to be quoted."""
    batch_size: int = 20
    """Edits painted at once."""
    structure_scale: float = 1.0
    """μ."""
    json: Path | None = None
    """File for all figures."""
    repeats: int = 5
    """Edits of each way that are timed."""
    sheet: Path | None = None
    """Picture of the first edits, a column each way."""
    sheet_edits: int = 12
    """How many of them."""


def cost(ways: Ways, told: dict[str, dict[str, Any]], repeats: int) -> dict[str, float]:
    """Median time of an edit that is told something, as a ratio to that of a plain one."""
    taken: dict[str, list[float]] = {name: [] for name in told}
    for number in range(repeats + 1):  # the first is not counted
        for name, given in told.items():
            started = time.perf_counter()
            ways.painted(count=1, **given)
            if number:
                taken[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    return {name: round(seconds / medians["plain"], 3) for name, seconds in medians.items()}


def maps_of(items: Sequence[Item], draw: Callable[[Pixels], Pixels]) -> Tensor:
    """What a model is told of the structure: (n, 1, S, S) in [0, 1]."""
    drawn = [draw(item.source)[..., 0] * item.mask for item in items]
    return torch.from_numpy(np.stack(drawn))[:, None].float() / 255


def regions_as_exemplars(pipeline: PaintByExamplePipeline, items: Sequence[Item]) -> Tensor:
    """Conditions of what stands in the regions."""
    return pipeline.encode_exemplar([Image.fromarray(painted_box(item.source, item.mask)) for item in items])


class Ways:
    """The rows of the table: each paints all items.

    Args:
        pipeline: the model.
        items: of the benchmark.
        options: of the command.
    """

    def __init__(self, pipeline: PaintByExamplePipeline, items: list[Item], options: Options) -> None:
        self.pipeline, self.items, self.options = pipeline, items, options
        self.conditions = pipeline.encode_exemplar([Image.fromarray(item.exemplar) for item in items])
        self.plain: list[Pixels] | None = None

    def rows(self) -> dict[str, Callable[[], list[Pixels]]]:
        """Name to what paints it; the first is what the others are compared with."""
        learned = self.pipeline.source_encoder
        rows: dict[str, Callable[[], list[Pixels]]] = {
            "plain": self.painted,
            "strength 0.9": lambda: self.painted(strength=0.9),
            "strength 0.7": lambda: self.painted(strength=0.7),
            "source as second exemplar, 0.5": lambda: self.painted(second=0.5),
            "harmonised, colour": lambda: self.harmonised("colour"),
            "harmonised, poisson": lambda: self.harmonised("poisson"),
        }
        if learned is not None and learned.config.structure:
            rows["structure, edges"] = lambda: self.painted(draw=edges)
            rows["structure, soft edges"] = lambda: self.painted(draw=soft_edges)
            rows["control: another's structure"] = lambda: self.painted(draw=edges, shift=1)
        if learned is not None and learned.config.context:
            rows["context"] = lambda: self.painted(context=True)
        if learned is not None and learned.config.structure and learned.config.context:
            rows["structure and context"] = lambda: self.painted(draw=soft_edges, context=True)
        return rows | {"control: the truth": lambda: [item.source for item in self.items]}

    def painted(
        self,
        draw: Callable[[Pixels], Pixels] | None = None,
        shift: int = 0,
        second: float = 0.0,
        count: int | None = None,
        **settings: Any,
    ) -> list[Pixels]:
        """Paint all items, or the first few, told what is given; with ``shift``, of the structure of another item."""
        results: list[Pixels] = []
        size = self.options.batch_size
        items = self.items[:count]
        for start in range(0, len(items), size):
            part = items[start : start + size]
            given = dict(settings)
            if draw is not None:
                others = [self.items[(start + number + shift) % len(self.items)] for number in range(len(part))]
                given |= {"structure": maps_of(others, draw), "structure_scale": self.options.structure_scale}
            if second:
                given["second"] = regions_as_exemplars(self.pipeline, part), second
            results += paint(
                self.pipeline,
                part,
                self.conditions[start : start + len(part)],
                range(start, start + len(part)),
                steps=default_steps(self.pipeline.scheduler),
                **given,
            )
        return results

    def harmonised(self, how: Any) -> list[Pixels]:
        """The plain edits, harmonised."""
        self.plain = self.plain or self.painted()
        pairs = zip(self.plain, self.items, strict=True)
        return [harmonise(how, item.source, result, item.mask) for result, item in pairs]


def colour_error(result: Pixels, truth: Pixels, mask: np.ndarray) -> float:
    """Mean difference within the mask, of both pictures blurred, grey levels."""
    blurred = [cv2.GaussianBlur(picture.astype(np.float32), (0, 0), BLUR) for picture in (result, truth)]
    return float(np.abs(blurred[0] - blurred[1])[mask].mean())


def interval(values: np.ndarray) -> list[float]:
    """95%, from bootstrap draws."""
    return [round(float(x), 3) for x in np.quantile(values, (0.025, 0.975))]


@torch.inference_mode()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    pipeline = load_pipeline(options.model)
    extractor = load_extractor("efficientnet-lite2")
    benchmark = HeldOut(options.data, options.edits, pipeline.image_size, pipeline.image_encoder.image_size, light=True)
    items = list(items_of(benchmark))
    numbers = np.array([benchmark.right(index) for index in range(len(items))])
    features = FeatureCache().features
    gallery = features(extractor, benchmark.gallery, "squash")
    truth = [painted_box(other, item.mask) for other, item in zip(benchmark.reference() or (), items, strict=True)]
    reference = Moments.of(features(extractor, truth, "squash"))
    rng = np.random.default_rng(0)
    draws = rng.integers(len(items), size=(RESAMPLES, len(items)))
    ways = Ways(pipeline, items, options)
    rows: dict[str, dict[str, Any]] = {}
    pictures: dict[str, list[Pixels]] = {}
    base: dict[str, np.ndarray] = {}
    for name, make in tqdm(ways.rows().items(), unit="way"):
        results = pictures[name] = make()
        if name == "plain":
            ways.plain = results
        pairs = list(zip(results, items, strict=True))
        boxes = features(extractor, [painted_box(result, item.mask) for result, item in pairs], "squash")
        likeness = np.asarray(retrieval(boxes, gallery, numbers)[1], np.float64)
        values = {
            "structure": np.array([edge_agreement(item.source, result, item.mask) for result, item in pairs]),
            "colour": np.array([colour_error(result, item.source, item.mask) for result, item in pairs]),
            "seam": np.array([seam_visibility(result, item.mask) for result, item in pairs]),
            "likeness": likeness,
        }
        base = base or values
        row: dict[str, Any] = {}
        for figure, one in values.items():
            means, plain = one[draws].mean(1), base[figure][draws].mean(1)
            row[figure] = round(float(one.mean()), 4)
            row[f"{figure}_interval"] = interval(means)
            row[f"{figure}_to_plain"] = round(float(one.mean() / base[figure].mean()), 3)
            row[f"{figure}_to_plain_interval"] = interval(means / plain)
        row["frechet"] = round(float(frechet.frechet_distance(Moments.of(boxes), reference)), 2)
        row["frechet_interval"] = interval(frechet.bootstrap(boxes, reference))
        rows[name] = row
        print(json.dumps({name: row}), flush=True)
    if options.sheet is not None:
        draw_sheet(options.sheet, items, pictures, options.sheet_edits)
    told: dict[str, dict[str, Any]] = {"plain": {}}
    if "structure, soft edges" in rows:
        told["structure"] = {"draw": soft_edges}
    if "context" in rows:
        told["context"] = {"context": True}
    times = cost(ways, told, options.repeats) if len(told) > 1 else {}
    print(json.dumps({"times as long": times}), flush=True)
    return {"edits": options.edits, "model": pipeline.fingerprint(), "rows": rows, "times_as_long": times}


def draw_sheet(path: Path, items: Sequence[Item], pictures: dict[str, list[Pixels]], count: int) -> None:
    """Masked source, exemplar, and a column for each way."""
    side, head = items[0].source.shape[0], 16
    shown = {
        "source": [np.where(item.mask[..., None], np.uint8(128), item.source) for item in items],
        "exemplar": [cv2.resize(item.exemplar, (side, side), interpolation=cv2.INTER_AREA) for item in items],
        **pictures,
    }
    sheet = Image.new("RGB", (len(shown) * (side + 4), head + count * (side + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (name, column_pictures) in enumerate(shown.items()):
        pen.text((column * (side + 4), 2), name.removeprefix("control: ")[:22], fill="black")
        for row, picture in enumerate(column_pictures[:count]):
            sheet.paste(Image.fromarray(picture), (column * (side + 4), head + row * (side + 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path)


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
