"""How thin may a stroke be, until the model paints no more than a colour into it, or nothing at all?

    python benchmarks/thin_strokes.py [--json]

Straight strokes, 1 to 24 pixels wide, in a square that the embedded model paints without resizing, at several places
across its cells of 8 x 8 pixels. Each is painted after two exemplars, balls of very different colours. That the model
sees the stroke at all shows in how far the two results lie apart within it; that there is room for a shape in how much
the result varies from one edge of the stroke to the other. Both are compared with a region 48 pixels wide.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from paint_by_example import PaintByExamplePipeline, load_pipeline
from paint_by_example.compat import latent_mask

WIDE = 48  # pixels
LENGTH = 72  # pixels of a stroke: the square around it has 1.75 times as many, at least 128
COLOURS = ((214, 60, 40), (30, 190, 80))


@dataclass
class Options:
    """Measure strokes."""

    widths: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24)
    """Pixels."""
    offsets: tuple[int, ...] = (0, 2, 4, 6)
    """Of the stroke's edge from that of a cell, pixels."""
    seeds: tuple[int, ...] = (0, 1)
    """Of each edit."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass
class Row:
    """Strokes of one width."""

    width: int
    """Pixels."""
    share: float
    """The largest share of a cell that is repainted, mean over the offsets."""
    apart: float
    """Mean distance of the two results within the stroke, to the same in the wide region."""
    across: float
    """Standard deviation from edge to edge, mean over the stroke's length, to the same in the wide region."""


def disc(colour: tuple[int, int, int], side: int = 128) -> Image.Image:
    """A ball of one colour, lit from above, on grey."""
    y, x = np.mgrid[:side, :side] / (side / 2) - 1
    radius = np.hypot(x, y)
    light = np.clip(1.1 - 0.5 * y - 0.6 * radius**2, 0.25, 1.2)[..., None]
    ball = np.where((radius < 0.85)[..., None], np.asarray(colour) * light, 128)
    return Image.fromarray(ball.clip(0, 255).astype(np.uint8))


def landscape(side: int) -> Image.Image:
    """A smooth ground with some noise."""
    y, x = np.mgrid[:side, :side] / side
    ground = np.stack([90 + 60 * y, 110 + 40 * x, 150 - 50 * y], -1)
    return Image.fromarray((ground + np.random.default_rng(0).normal(0, 4, ground.shape)).clip(0, 255).astype(np.uint8))


def stroke(side: int, width: int, offset: int) -> NDArray[np.bool_]:
    """A horizontal stroke (side, side) near the middle, its upper edge so far from that of a cell."""
    mask = np.zeros((side, side), bool)
    top = (side - WIDE) // 16 * 8 + offset
    mask[top : top + width, (side - LENGTH) // 2 : (side + LENGTH) // 2] = True
    return mask


def painted(pipeline: PaintByExamplePipeline, mask: NDArray[np.bool_], seeds: tuple[int, ...]) -> NDArray[np.float64]:
    """What is painted into a stroke of some width after each exemplar, (exemplars, seeds, width, LENGTH, 3)."""
    source = landscape(len(mask))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    made = [pipeline.edit(source, mask=mask, exemplar=disc(one), seed=list(seeds)).images for one in COLOURS]
    pixels = np.asarray([[np.asarray(image.convert("RGB")) for image in images] for images in made])
    return pixels[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float64)


def look(strokes: NDArray[np.float64]) -> tuple[float, float]:
    """How far the results lie apart, and how much they vary from edge to edge."""
    return float(np.abs(strokes[0] - strokes[1]).mean()), float(strokes.std(axis=2).mean())


def main() -> None:
    """Print a row for each width."""
    options = tyro.cli(Options, description=__doc__)
    pipeline = load_pipeline()
    side, cells = pipeline.image_size, pipeline.unet.config.sample_size
    wide = look(painted(pipeline, stroke(side, WIDE, 0), options.seeds))
    for width in options.widths:
        masks = [stroke(side, width, offset) for offset in options.offsets]
        shares = [latent_mask(torch.from_numpy(mask)[None, None].float(), (cells, cells)).max() for mask in masks]
        looks = [look(painted(pipeline, mask, options.seeds)) for mask in masks]
        apart, across = (
            float(np.mean(one)) / of_wide for one, of_wide in zip(zip(*looks, strict=True), wide, strict=True)
        )
        row = asdict(Row(width, *(round(value, 2) for value in (float(np.mean(shares)), apart, across))))
        line = json.dumps(row) if options.json else "  ".join(f"{name} {value}" for name, value in row.items())
        print(line, flush=True)


if __name__ == "__main__":
    main()
