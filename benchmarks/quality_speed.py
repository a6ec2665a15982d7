"""What speed costs: techniques and presets on held-out edits of the embedded model, with intervals.

    python benchmarks/quality_speed.py [--edits 500] [--json docs/quality_speed.json]

Every technique paints the same edits from the same noise. Likeness is the mean centred cosine of the painted box and
the exemplar, Fréchet the distance of painted boxes to those of other true scenes of the same objects, both by
EfficientNet-Lite2; seam in grey levels; agreement is the PSNR within the holes to what `exact` painted.

Intervals are of 95%, from 1,000 resamples of the edits (Fréchet: `frechet.RESAMPLES`); those of differences to `exact`
are paired. Time is the wall clock of an edit, the techniques in turn, after one of each that is not counted.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from tqdm import tqdm

from paint_by_example import load_pipeline
from paint_by_example.compiled import choose_backend
from paint_by_example.evaluation import frechet
from paint_by_example.evaluation.benchmark import Item, Pixels, items_of
from paint_by_example.evaluation.editing import paint
from paint_by_example.evaluation.features import FeatureCache, load_extractor
from paint_by_example.evaluation.held_out import HeldOut
from paint_by_example.evaluation.likeness import painted_box, retrieval
from paint_by_example.evaluation.seam import seam_visibility
from paint_by_example.evaluation.statistics import Moments
from paint_by_example.pipeline import PaintByExamplePipeline
from paint_by_example.presets import PRESETS, Preset
from paint_by_example.sampling import default_steps, make_scheduler

EXACT = PRESETS["exact"]
BF16 = ("openvino-bf16", "openvino")
TECHNIQUES: dict[str, Preset] = {
    "torch": Preset(),
    **PRESETS,
    "bfloat16": replace(EXACT, backends=BF16),
    "interval 0.2-1": replace(EXACT, guidance_interval=(0.2, 1.0)),
    "interval 0.5-1": replace(EXACT, guidance_interval=(0.5, 1.0)),
    "interval 0-0.8": replace(EXACT, guidance_interval=(0.0, 0.8)),
    "interval 0.2-0.8": replace(EXACT, guidance_interval=(0.2, 0.8)),
    "no guidance": replace(EXACT, guidance_interval=(1.0, 1.0)),
    "10 steps": replace(EXACT, steps=10, scheduler="dpm++"),
    "5 steps": replace(EXACT, steps=5, scheduler="dpm++"),
    "3 steps": replace(EXACT, steps=3, scheduler="dpm++"),
    "2 steps": replace(EXACT, steps=2, scheduler="dpm++"),
    "10 steps, unipc": replace(EXACT, steps=10, scheduler="unipc"),
    "5 steps, unipc": replace(EXACT, steps=5, scheduler="unipc"),
    "50 steps, pndm": replace(EXACT, steps=50, scheduler="pndm"),
}


@dataclass
class Options:
    """Measure techniques and presets."""

    data: Path = Path("data/composites")
    """Folder from `pbe prepare composites`."""
    model: str = "embedded"
    """Model to measure."""
    edits: int = 500
    """Held-out edits; at least 500 for a figure to be quoted."""
    batch_size: int = 20
    """Edits painted at once, but for the times."""
    repeats: int = 5
    """Edits of each technique that are timed."""
    only: tuple[str, ...] = ()
    """Techniques beside exact; all by default."""
    json: Path | None = None
    """File for all figures."""


def paint_all(pipeline: PaintByExamplePipeline, items: list[Item], how: Preset, options: Options) -> list[Pixels]:
    """Paint every item."""
    solver = pipeline.scheduler if how.scheduler is None else make_scheduler(how.scheduler, pipeline.scheduler)
    network = pipeline.network(choose_backend(how.backends, pipeline.device))
    results: list[Pixels] = []
    for start in range(0, len(items), options.batch_size):
        part = items[start : start + options.batch_size]
        results += paint(
            pipeline,
            part,
            pipeline.encode_exemplar([Image.fromarray(item.exemplar) for item in part]),
            range(start, start + len(part)),
            steps=how.steps or default_steps(solver),
            scheduler=solver,
            guidance_interval=how.guidance_interval,
            network=network,
        )
    return results


def interval(values: np.ndarray, seed: int = 0) -> list[float]:
    """95% interval of a mean."""
    rng = np.random.default_rng(seed)
    draws = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(1000)]
    return [round(float(x), 4) for x in np.quantile(draws, (0.025, 0.975))]


def times(
    pipeline: PaintByExamplePipeline, item: Item, techniques: dict[str, Preset], repeats: int
) -> dict[str, float]:
    """Median seconds of an edit, the techniques in turn."""
    taken: dict[str, list[float]] = {name: [] for name in techniques}
    networks = {}
    for name, how in techniques.items():
        backend = choose_backend(how.backends, pipeline.device)
        networks[name] = networks.get(backend) or pipeline.network(backend)
        networks[backend] = networks[name]
    for round_ in range(repeats + 1):
        for name, how in techniques.items():
            solver = pipeline.scheduler if how.scheduler is None else make_scheduler(how.scheduler, pipeline.scheduler)
            started = time.perf_counter()
            paint(
                pipeline,
                [item],
                pipeline.encode_exemplar([Image.fromarray(item.exemplar)]),
                [0],
                steps=how.steps or default_steps(solver),
                scheduler=solver,
                guidance_interval=how.guidance_interval,
                network=networks[name],
            )
            if round_:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@torch.inference_mode()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    pipeline = load_pipeline(options.model)
    extractor = load_extractor("efficientnet-lite2")
    benchmark = HeldOut(options.data, options.edits, pipeline.image_size, pipeline.image_encoder.image_size)
    items = list(items_of(benchmark))
    numbers = np.array([benchmark.right(index) for index in range(len(items))])
    features = FeatureCache().features
    gallery = features(extractor, benchmark.gallery, "squash")
    truth = [benchmark._scene(index, stream=8) for index in range(len(items))]
    reference = Moments.of(features(extractor, [painted_box(one.source, one.mask) for one in truth], "squash"))
    techniques = {"exact": EXACT} | {
        name: how for name, how in TECHNIQUES.items() if not options.only or name in options.only
    }
    seconds = times(pipeline, items[0], techniques, options.repeats)
    rows: dict[str, dict[str, Any]] = {}
    base: dict[str, Any] = {}
    for name, how in tqdm(techniques.items(), unit="technique"):
        pictures = paint_all(pipeline, items, how, options)
        boxes = features(extractor, [painted_box(p, i.mask) for p, i in zip(pictures, items, strict=True)], "squash")
        likeness = np.asarray(retrieval(boxes, gallery, numbers)[1], np.float64)
        draws = frechet.bootstrap(boxes, reference)
        seam = np.array([seam_visibility(p, i.mask) for p, i in zip(pictures, items, strict=True)])
        base = base or {"likeness": likeness, "pictures": pictures, "seam": seam, "draws": draws}
        error = [
            np.square(p[i.mask].astype(float) - q[i.mask]).mean()
            for p, q, i in zip(pictures, base["pictures"], items, strict=True)
        ]
        psnr = 10 * np.log10(255**2 / np.maximum(error, 1e-2))
        rows[name] = {
            "seconds": round(seconds[name], 4),
            "times": round(seconds["exact"] / seconds[name], 2),
            "likeness": round(float(likeness.mean()), 4),
            "likeness_interval": interval(likeness),
            "likeness_difference_interval": interval(likeness - base["likeness"]),
            "frechet": round(float(frechet.frechet_distance(Moments.of(boxes), reference)), 4),
            "frechet_difference_interval": [
                round(float(x), 4) for x in np.quantile(draws - base["draws"], (0.025, 0.975))
            ],
            "seam": round(float(seam.mean()), 3),
            "seam_difference_interval": interval(seam - base["seam"]),
            "agreement_psnr": round(float(psnr.mean()), 1),
            "settings": asdict(how),
        }
        print(json.dumps({name: rows[name]}), flush=True)
    return {"edits": options.edits, "model": pipeline.fingerprint(), "rows": rows}


if __name__ == "__main__":
    given = tyro.cli(Options)
    result = measure(given)
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
