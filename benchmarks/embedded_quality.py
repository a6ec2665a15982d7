"""How well the embedded model paints what it is shown, on objects and backgrounds it has never seen.

For each of 200 held-out edits the painted region's features are compared with those of 100 held-out exemplars: is the
one asked for the nearest, or among the five nearest? Chance is 1% and 5%. The features are those of EfficientNet-Lite2,
which conditions nothing (the model sees through Lite0). Controls: the same holes painted after a wrong exemplar and
after none (the null token). Ceilings: the true object in the scene, and the exemplar itself pasted into the hole.

    python benchmarks/embedded_quality.py [--json] [--sheet docs/images/held_out.png]

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

from paint_by_example import efficientnet, load_pipeline
from paint_by_example.data.composites import MASK_EXTENSION, Composites, object_scene, place_exemplar
from paint_by_example.data.masks import extend_box, rectangle_mask
from paint_by_example.images import image_tensor, mask_bounds, mask_tensor, save_image, tensor_image
from paint_by_example.pipeline import PaintByExamplePipeline
from paint_by_example.sampling import default_steps, seeded_generators

GALLERY = 100  # exemplars to choose from
GUIDANCE_SCALES = (1.0, 2.0, 3.0, 5.0, 8.0)
FEATURE_SIDE = 160  # pixels, of the crops that Lite2 sees


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
    json: bool = False
    """Print one JSON object."""


@dataclass
class Edits:
    """Held-out edits, n of them."""

    numbers: list[int]
    """Which exemplar of the gallery each asks for."""
    source: Tensor
    """(n, 3, S, S) in [-1, 1], with the true object in place."""
    mask: Tensor
    """(n, 1, S, S) in {0, 1}."""
    exemplars: np.ndarray
    """(GALLERY, E, E, 3) uint8, each object on white."""


def held_out_edits(options: Options, pipeline: PaintByExamplePipeline) -> Edits:
    """The edits: each object of the gallery in turn, each time in another scene."""
    scenes = Composites(options.data, "held_out", pipeline.image_size, pipeline.image_encoder.image_size, options.seed)
    order = np.random.default_rng(12345).permutation(len(scenes.objects))[:GALLERY]
    side = pipeline.image_encoder.image_size
    white = [place_exemplar(np.full((side, side, 3), 255, np.uint8), scenes.cutouts[number]) for number in order]
    sources, masks, numbers = [], [], []
    for index in range(options.edits):
        rng = np.random.default_rng((options.seed, 7, index))
        number = index % len(order)
        scene = object_scene(rng, scenes.cutouts[order[number]], scenes.background(rng, scenes.size))
        size = (scenes.size, scenes.size)
        sources.append(image_tensor(scene.source))
        masks.append(mask_tensor(rectangle_mask(extend_box(rng, scene.box, size, MASK_EXTENSION), size).astype(bool)))
        numbers.append(number)
    return Edits(numbers, torch.cat(sources), torch.cat(masks), np.stack(white))


def paint(
    pipeline: PaintByExamplePipeline, edits: Edits, conditions: Tensor, guidance_scale: float, options: Options
) -> np.ndarray:
    """Paint every edit under its own condition: (n, S, S, 3) uint8, the source outside the mask."""
    results: list[np.ndarray] = []
    count = len(conditions)
    for start in tqdm(range(0, count, options.batch_size), desc=f"painting, guidance {guidance_scale:g}", leave=False):
        part = slice(start, min(start + options.batch_size, count))
        *_, last = pipeline.paint(
            edits.source[part],
            edits.mask[part],
            conditions[part],
            guidance_scale=guidance_scale,
            steps=options.steps or default_steps(pipeline.scheduler),
            generators=seeded_generators(range(part.start, part.stop)),
        )
        mask = edits.mask[part]
        painted = pipeline.decode_latent(last.z_t).detach().cpu() * mask + edits.source[part] * (1 - mask)
        results += tensor_image(painted)
    return np.stack(results)


@torch.inference_mode()
def features(network: efficientnet.EfficientNetLite, pictures: Sequence[np.ndarray]) -> Tensor:
    """EfficientNet-Lite2's last features, averaged over the picture: (n, 352)."""
    rows = []
    for start in range(0, len(pictures), 50):
        batch = np.stack(
            [
                cv2.resize(picture, (FEATURE_SIDE, FEATURE_SIDE), interpolation=cv2.INTER_AREA)
                for picture in pictures[start : start + 50]
            ]
        )
        x = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
        x = (x - torch.tensor(efficientnet.MEAN)[:, None, None]) / torch.tensor(efficientnet.STD)[:, None, None]
        rows.append(network(x)[-1].mean((2, 3)))
    return torch.cat(rows)


def regions(pictures: np.ndarray, mask: Tensor) -> list[np.ndarray]:
    """The box around each mask, cut out of its picture."""
    crops = []
    for picture, one in zip(pictures, mask, strict=False):
        left, top, right, bottom = mask_bounds(one[0].numpy() > 0.5)
        crops.append(picture[top:bottom, left:right])
    return crops


def score(
    network: efficientnet.EfficientNetLite, crops: list[np.ndarray], edits: Edits, gallery: Tensor
) -> dict[str, float]:
    """Share of regions whose exemplar is the nearest, among the five nearest, and the mean similarity to it."""
    centre = gallery.mean(0)  # what all exemplars have in common says nothing about which is which
    similarity = (
        torch.nn.functional.normalize(features(network, crops) - centre, dim=1)
        @ torch.nn.functional.normalize(gallery - centre, dim=1).T
    )
    right = torch.tensor(edits.numbers[: len(crops)])
    rank = (similarity > similarity.gather(1, right[:, None])).sum(1)
    return {
        "top1": round(100 * (rank < 1).float().mean().item(), 1),
        "top5": round(100 * (rank < 5).float().mean().item(), 1),
        "likeness": round(similarity.gather(1, right[:, None]).mean().item(), 4),
    }


def paste(edits: Edits) -> np.ndarray:
    """The exemplar squeezed into the box of each mask: the baseline that understands nothing."""
    pictures = np.stack(tensor_image(edits.source))
    for picture, one, number in zip(pictures, edits.mask, edits.numbers, strict=True):
        left, top, right, bottom = mask_bounds(one[0].numpy() > 0.5)
        picture[top:bottom, left:right] = cv2.resize(
            edits.exemplars[number], (right - left, bottom - top), interpolation=cv2.INTER_AREA
        )
    return pictures


def draw_sheet(path: Path, edits: Edits, painted: np.ndarray, count: int, columns: int = 4) -> None:
    """Masked source, exemplar and result of the first edits, side by side."""
    masked = tensor_image(edits.source * (1 - edits.mask))
    side = painted.shape[1]
    rows = (count + columns - 1) // columns
    gap, header = 12, 18
    sheet = Image.new("RGB", (columns * (3 * side + gap), header + rows * (side + 4)), "white")
    pen = ImageDraw.Draw(sheet)
    for column in range(columns):
        for position, label in enumerate(("source and mask", "exemplar", "result")):
            pen.text((column * (3 * side + gap) + position * side + 4, 3), label, fill="black")
    for index in range(count):
        row, column = divmod(index, columns)
        exemplar = cv2.resize(edits.exemplars[edits.numbers[index]], (side, side), interpolation=cv2.INTER_AREA)
        strip = np.hstack([masked[index], exemplar, painted[index]])
        sheet.paste(Image.fromarray(strip), (column * (3 * side + gap), header + row * (side + 4)))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(sheet, path)


@torch.inference_mode()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    started = time.perf_counter()
    pipeline = load_pipeline(options.model)
    network = efficientnet.load_pretrained(2)
    edits = held_out_edits(options, pipeline)
    gallery = features(network, list(edits.exemplars))
    conditions = pipeline.encode_exemplar(edits.exemplars)
    right = conditions[edits.numbers]
    wrong = conditions[[(number + GALLERY // 2) % GALLERY for number in edits.numbers]]
    null = pipeline.image_encoder.uncond_vector.expand(len(right), -1, -1)

    painted = paint(pipeline, edits, right, options.guidance_scale, options)
    main = score(network, regions(painted, edits.mask), edits, gallery)

    def control(pictures: np.ndarray) -> dict[str, float]:
        return score(network, regions(pictures, edits.mask), edits, gallery)

    result: dict[str, Any] = {
        **main,
        "controls": {
            "wrong exemplar": control(paint(pipeline, edits, wrong, options.guidance_scale, options)),
            "null token": control(paint(pipeline, edits, null, 1.0, options)),
            "true object": control(np.stack(tensor_image(edits.source))),
            "cut and paste": control(paste(edits)),
        },
        "guidance": {},
        "edits": options.edits,
        "gallery": GALLERY,
        "guidance_scale": options.guidance_scale,
    }
    for scale in GUIDANCE_SCALES if options.sweep else ():
        few = paint(pipeline, edits, right[: options.sweep], scale, options)
        result["guidance"][f"{scale:g}"] = score(network, regions(few, edits.mask), edits, gallery)
    if options.sheet is not None:
        draw_sheet(options.sheet, edits, painted, min(options.sheet_edits, len(painted)))
    result["seconds"] = round(time.perf_counter() - started, 1)
    return result


def show(result: dict[str, Any]) -> None:
    """A table for people."""
    rows = [(f"edits, guidance {result['guidance_scale']:g}", result), *result["controls"].items()]
    rows += [(f"first edits, guidance {scale}", figures) for scale, figures in result["guidance"].items()]
    print(f"{'':26}{'top-1 %':>9}{'top-5 %':>9}{'likeness':>10}")
    for name, figures in rows:
        print(f"{name:26}{figures['top1']:9.1f}{figures['top5']:9.1f}{figures['likeness']:10.4f}")
    print(f"{'chance':26}{100 / result['gallery']:9.1f}{500 / result['gallery']:9.1f}")
    print(f"{result['edits']} held-out edits, {result['gallery']} held-out exemplars, {result['seconds']} s")


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        show(figures)
