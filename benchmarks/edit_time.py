"""How long an edit takes with the embedded model: warm, in a running program, and cold, as a command.

    python benchmarks/edit_time.py [--json]
    python benchmarks/edit_time.py --beside ../older/src    # the command of another checkout too, in turns

Beside them, measured in the same run: the bare evaluations of the U-Net that the edit asks for, so that what the rest
costs can be seen, and the machine's speed in a float32 matrix product, so that two machines can be compared.
"""

from __future__ import annotations

import json
import os
import resource
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
from paint_by_example.layout import own_guidance
from paint_by_example.painter import GUIDANCE_SCALE

BOX = (200, 60, 440, 300)


@dataclass
class Options:
    """Time edits."""

    model: str = "embedded"
    """Model to time."""
    repeats: int = 5
    """Runs of each; medians are printed."""
    beside: Path | None = None
    """The src folder of another checkout: only the command is timed, of both, in turns."""
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


def command_in(folder: Path, model: str) -> list[str]:
    """The edit as a command, with its pictures in a folder."""
    Image.fromarray(data.coffee()).save(folder / "source.png")
    Image.fromarray(data.chelsea()).save(folder / "exemplar.png")
    command = [sys.executable, "-m", "paint_by_example", "edit", f"{folder / 'source.png'}"]
    command += ["--exemplar", f"{folder / 'exemplar.png'}", "--box", ",".join(map(str, BOX))]
    return [*command, "--output", f"{folder / 'out.png'}", "--model", model]


def both(options: Options, other: Path) -> dict[str, float]:
    """Seconds of the command here and of another checkout, on the clock and of the processor: medians, and ratios."""
    here = Path(__file__).parents[1] / "src"
    seconds: dict[Path, list[tuple[float, float]]] = {here: [], other: []}
    with tempfile.TemporaryDirectory() as folder:
        command = command_in(Path(folder), options.model)
        for turn in range(options.repeats + 1):  # the first is not counted
            for place in (here, other) if turn % 2 else (other, here):
                used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                environment = os.environ | {"PYTHONPATH": f"{place.resolve()}"}
                subprocess.run(command, check=True, capture_output=True, env=environment)
                end, now = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
                processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
                seconds[place].append((end - start, processor))
    figures: dict[str, float] = {}
    for index, name in enumerate(("clock", "processor")):
        mine, theirs = ([pair[index] for pair in seconds[place][1:]] for place in (here, other))
        figures[f"{name}_here"] = round(statistics.median(mine), 2)
        figures[f"{name}_beside"] = round(statistics.median(theirs), 2)
        figures[f"{name}_ratio"] = round(statistics.median(a / b for a, b in zip(mine, theirs, strict=True)), 3)
    return figures


def measure(options: Options) -> dict[str, float]:
    """All figures, seconds unless named otherwise."""
    a = torch.randn(2048, 2048)
    product = median(lambda: a @ a, 10)

    pipeline = load_pipeline(options.model)
    source, exemplar, box = data.coffee(), Image.fromarray(data.chelsea()), BOX
    steps = pipeline.edit(source, exemplar=exemplar, box=box).steps
    warm = median(lambda: pipeline.edit(source, exemplar=exemplar, box=box), options.repeats)

    config = pipeline.unet.config
    asked = 1 if own_guidance(GUIDANCE_SCALE, pipeline.unet) == 1 else 2  # predictions a step
    x = torch.randn(asked, config.in_channels, config.sample_size, config.sample_size, device=pipeline.device)
    condition = pipeline.image_encoder.uncond_vector.expand(asked, -1, -1)
    with torch.inference_mode():
        evaluation = median(lambda: pipeline.unet(x, 500, condition), options.repeats * 4)

    with tempfile.TemporaryDirectory() as folder:
        command = command_in(Path(folder), options.model)
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
    figures = measure(given) if given.beside is None else both(given, given.beside)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):24}{value}")
