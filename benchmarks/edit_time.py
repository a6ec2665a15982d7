"""How long an edit takes with the embedded model: warm, in a running program, and cold, as a command.

    python benchmarks/edit_time.py [--json]

Beside them, measured in the same run: the bare evaluations of the U-Net that the edit asks for, so that what the rest
costs can be seen, and the machine's speed in a float32 matrix product, so that two machines can be compared.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from PIL import Image
from skimage import data

from paint_by_example import load_pipeline


@dataclass
class Options:
    """Time edits."""

    model: str = "embedded"
    """Model to time."""
    repeats: int = 5
    """Runs of each; medians are printed."""
    json: bool = False
    """Print one JSON object."""


def median(run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a run, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(options: Options) -> dict[str, float]:
    """All figures, seconds unless named otherwise."""
    a = torch.randn(2048, 2048)
    product = median(lambda: a @ a, 10)

    pipeline = load_pipeline(options.model)
    source, exemplar, box = data.coffee(), Image.fromarray(data.chelsea()), (200, 60, 440, 300)
    steps = pipeline.edit(source, exemplar=exemplar, box=box).steps
    warm = median(lambda: pipeline.edit(source, exemplar=exemplar, box=box), options.repeats)

    config = pipeline.unet.config
    x = torch.randn(2, config.in_channels, config.sample_size, config.sample_size, device=pipeline.device)
    condition = pipeline.image_encoder.uncond_vector.expand(2, -1, -1)
    with torch.inference_mode():
        evaluation = median(lambda: pipeline.unet(x, 500, condition), options.repeats * 4)

    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(source).save(f"{folder}/source.png")
        exemplar.save(f"{folder}/exemplar.png")
        pbe = Path(sys.executable).with_name("pbe")
        command = [str(pbe), "edit", f"{folder}/source.png", "--exemplar", f"{folder}/exemplar.png"]
        command += ["--box", ",".join(map(str, box)), "--output", f"{folder}/out.png", "--model", options.model]
        cold = median(lambda: subprocess.run(command, check=True, capture_output=True), max(2, options.repeats // 2))
    return {
        "warm": round(warm, 3),
        "cold": round(cold, 3),
        "steps": steps,
        "unet_evaluation": round(evaluation, 4),
        "share_of_warm_in_unet": round(steps * evaluation / warm, 3),
        "matrix_product_gflops": round(2 * 2048**3 / product / 1e9, 1),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    given = tyro.cli(Options)
    figures = measure(given)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):24}{value}")
