"""What scoring a benchmark of the paper's size takes, and how the Fréchet distance is computed.

1. A synthetic tree in COCOEE's layout, with results of cut-and-paste, is scored end to end: reading, pixels, features,
   figures. In CLIP's place stands a projection of the shrunk picture to 512 numbers: a network would hide all the
   rest. From features to figures is also timed by itself: statistics, Fréchet distance and its bootstrap, KID and
   its own.
2. Fréchet distance with 2,048 features, against the usual root of the product by scipy, on statistics of as many
   pictures as make it regular.

    python benchmarks/evaluation.py [--items 3500] [--side 128] [--json]

Times are of the processor, in one thread (OMP_NUM_THREADS=1); what is compared is their ratio within one run. Each part
runs in a process of its own, whose memory is what it took beyond the imported packages and what it was given.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from scipy import linalg

from paint_by_example.evaluation import frechet, mmd
from paint_by_example.evaluation.benchmark import open_benchmark
from paint_by_example.evaluation.editing import baseline_method, run_method
from paint_by_example.evaluation.features import Extractor, FeatureCache, fitted, scaled
from paint_by_example.evaluation.scoring import Instruments, measure_reference, score
from paint_by_example.evaluation.statistics import Moments

FEATURES = 512  # of CLIP ViT-B/32


@dataclass
class Options:
    """Measure the measuring."""

    items: int = 3500
    """Of the synthetic tree; the paper's has 3,500."""
    side: int = 128
    """Of its pictures, pixels; the paper's have 512."""
    features: int = 2048
    """Of the Fréchet distance that is compared with scipy's."""
    repeats: int = 3
    """Of both, in turn."""
    keep: Path | None = None
    """Folder for the tree; a temporary one that is removed by default."""
    json: bool = False
    """Print one JSON object."""


def write_tree(folder: Path, options: Options) -> None:
    """Pictures of coloured blocks: they compress, and no two are alike."""
    for part in ("GT_3500", "Ref_3500", "Mask_bbox_3500", "test_set_GT"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    side = options.side

    def blocks(height: int, width: int) -> Image.Image:
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        return small.resize((width, height), Image.Resampling.BICUBIC)

    for number in range(options.items):
        blocks(side, side).save(folder / "GT_3500" / f"{number:012d}_GT.png", compress_level=1)
        blocks(side // 2, side // 3).save(folder / "Ref_3500" / f"{number:012d}_ref.png", compress_level=1)
        blocks(side, side).save(folder / "test_set_GT" / f"{number}.png", compress_level=1)
        mask = np.zeros((side, side), np.uint8)
        left, top = rng.integers(0, side // 2, 2)
        mask[top : top + side // 2, left : left + side // 3] = 255
        Image.fromarray(mask).save(folder / "Mask_bbox_3500" / f"{number:012d}_mask.png")
    np.save(folder / "id_list.npy", np.arange(options.items))


def peak() -> float:
    """Largest memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def projection() -> Extractor:
    """512 features, as CLIP ViT-B/32 has."""
    matrix = torch.randn(3 * 16 * 16, FEATURES, generator=torch.Generator().manual_seed(0)) / 16
    return Extractor(
        "clip-vit-b-32",
        lambda picture, fit: scaled(fitted(picture, fit, 16, 16)),
        lambda x: x.flatten(1) @ matrix,
        "projection",
        torch.device("cpu"),
    )


def end_to_end(folder: Path, options: Options) -> dict[str, Any]:
    """Score the tree; and again, when features are in the cache."""
    benchmark, results = open_benchmark(folder), folder / "results"
    run_method(baseline_method("cut-and-paste"), benchmark, results, {})
    instruments = Instruments({"clip-vit-b-32": projection()})
    before, times = peak(), []
    for _ in range(2):
        started = time.process_time()
        cache = FeatureCache(folder / "features")
        references = measure_reference(benchmark.reference, instruments, cache)
        made = score(benchmark, "cut-and-paste", results, instruments, references, cache)
        times.append(time.process_time() - started)
    return {
        "items": len(made.names),
        "metrics": len(made.figures),
        "seconds": round(times[0], 1),
        "seconds_again": round(times[1], 1),  # features are in the cache
        "memory_mib": round(peak() - before),
        "frechet": made.figures["frechet-clip-vit-b-32"].value,
    }


def to_figures(items: int, dimension: int) -> dict[str, Any]:
    """From features to figures."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(items, dimension)).astype(np.float32)
    y = rng.normal(0.05, 1.05, size=(items, dimension)).astype(np.float32)
    result: dict[str, Any] = {"items": items, "features": dimension}
    before = peak()
    steps: tuple[tuple[str, Any], ...] = (
        ("statistics", lambda: (Moments.of(x), Moments.of(y))),
        ("frechet", lambda: frechet.frechet_distance(Moments.of(x), Moments.of(y))),
        ("kid with interval", lambda: mmd.kid(x, y)),
        ("frechet bootstrap", lambda: frechet.bootstrap(x, Moments.of(y))),
    )
    for name, step in steps:
        started = time.process_time()
        step()
        result[name] = round(time.process_time() - started, 2)
    return result | {"memory_mib": round(peak() - before)}


def against_root(options: Options) -> dict[str, Any]:
    """Ours and scipy's, both in float64 from the same statistics."""
    rng = np.random.default_rng(2)
    d = options.features
    spectrum = np.linspace(1, 30, d) ** -1.0  # falls as that of real features does
    a, b = (Moments.of(rng.normal(shift, 1, size=(2 * d, d)) * spectrum) for shift in (0.0, 0.1))
    fast, slow = [], []
    for _ in range(options.repeats):
        started = time.process_time()
        ours = frechet.frechet_distance(a, b)
        fast.append(time.process_time() - started)
        started = time.process_time()
        first, second = a.covariance(), b.covariance()
        root = np.trace(linalg.sqrtm(first @ second)).real
        difference = a.mean - b.mean
        theirs = float(difference @ difference + np.trace(first) + np.trace(second) - 2 * root)
        slow.append(time.process_time() - started)
    ratios = sorted(theirs / ours for ours, theirs in zip(fast, slow, strict=True))
    return {
        "features": d,
        "seconds": round(float(np.median(fast)), 2),
        "seconds_scipy": round(float(np.median(slow)), 2),
        "ratios": [round(ratio, 1) for ratio in ratios],
        "relative_difference": abs(ours - theirs) / abs(theirs),
    }


def alone(part: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a part returns, run in a fresh process: the largest memory of a process never falls again."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        return executor.submit(part, *arguments).result()


def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    folder = options.keep or Path(tempfile.mkdtemp())
    try:
        result = {"frechet": alone(against_root, options)}
        result["to_figures"] = alone(to_figures, options.items, FEATURES)
        write_tree(folder, options)
        result["end_to_end"] = alone(end_to_end, folder, options)
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    return result


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        for part, values in figures.items():
            print(part)
            for name, value in values.items():
                print(f"  {name:22} {value}")
