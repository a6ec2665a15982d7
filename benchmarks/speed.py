"""How fast: diffusers' parts as its deprecated pipeline drove them, against this package, in one run and in turn.

    python benchmarks/speed.py [--json]

Full size: Stable Diffusion 1.x's U-Net with nine input channels and random weights, pictures of 512 pixels, on the CPU;
seconds of one guided step (a batch of two) and its share of the machine's peak in a float32 matrix product, each
backend in turn with diffusers and the product. Of these and of a single prediction follows what the U-Net takes of a
whole edit, diffusers' 50 steps of PNDM against the presets. Embedded model: whole edits, the ancestor's 50 steps of
PNDM against the presets; and from the start of Python to the first result, where an earlier start has filled the cache.
Other work on the machine slows all of them: compare figures of one run only.
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
from typing import Any

import torch
import tyro
from diffusers import UNet2DConditionModel
from PIL import Image
from skimage import data
from torch.utils.flop_counter import FlopCounterMode

from paint_by_example import load_pipeline
from paint_by_example.attention import collapse_cross_attention
from paint_by_example.compiled import BackendName, compile_network, has_bfloat16, has_openvino
from paint_by_example.embedded import build_scheduler
from paint_by_example.guidance import within_interval
from paint_by_example.presets import PRESETS, Preset
from paint_by_example.sampling import default_steps, denoise, make_scheduler

FIRST = """
from paint_by_example import load_pipeline
load_pipeline().edit("source.png", exemplar="exemplar.png", box=(200, 60, 440, 300), **{options})
"""


@dataclass
class Options:
    """Time both."""

    full_size: bool = True
    """Also the full-size network: takes up to 20 GB of memory and some minutes."""
    embedded: bool = True
    """Also the embedded model."""
    backends: tuple[BackendName, ...] = ("openvino", "openvino-bf16")
    """Of the full-size network, beside torch, where they can be used. openvino-int8 is calibrated with noise, and takes
    more memory to make."""
    first: bool = True
    """Also the time to a first result."""
    repeats: int = 3
    """Runs of each, after one that is not counted; medians are printed."""
    side: int = 512
    """Of the picture, pixels."""
    json: bool = False
    """Print one JSON object."""


def in_turn(
    runs: dict[str, Callable[[], object]], repeats: int, prepare: Callable[[str], object] = lambda name: None
) -> dict[str, float]:
    """Median seconds of each, one after another and again.

    Args:
        runs: by name.
        repeats: of each that count.
        prepare: called with the name before each run, off the clock.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            prepare(name)
            started = time.perf_counter()
            run()
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def evaluations(preset: Preset) -> tuple[int, int]:
    """How many guided and how many single predictions an edit takes by a model whose own sampler is the ancestor's."""
    counts = [0, 0]

    def counted(kind: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        def predict(z_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            counts[kind] += 1
            return z_t

        return predict

    own = make_scheduler("pndm", build_scheduler())
    solver = own if preset.scheduler is None else make_scheduler(preset.scheduler, own)
    levels = int(solver.config.num_train_timesteps)
    predict = within_interval(counted(0), counted(1), preset.guidance_interval, levels)
    list(denoise(predict, torch.zeros(1, 4, 8, 8), solver, preset.steps or default_steps(solver)))
    return counts[0], counts[1]


@torch.no_grad()
def full_size(options: Options) -> dict[str, Any]:
    """Predictions of the full-size network, and what follows for the edits that are made of them."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=9, cross_attention_dim=768, attention_head_dim=8, layers_per_block=2
    ).eval()
    x = torch.randn(1, 9, options.side // 8, options.side // 8).repeat(2, 1, 1, 1)
    t, condition = torch.tensor(500), torch.randn(2, 1, 768)
    counter = FlopCounterMode(display=False)
    with counter:
        expected = unet(x, t, encoder_hidden_states=condition).sample
    flops = counter.get_total_flops()
    plain = dict(unet.attn_processors)

    def prepare(name: str) -> None:
        if name == "diffusers":
            unet.set_attn_processor(dict(plain))
            unet.to(memory_format=torch.contiguous_format)
        elif name.startswith("torch"):
            collapse_cross_attention(unet)
            unet.to(memory_format=torch.channels_last)  # as load_pipeline does

    a = torch.randn(4096, 4096)
    steps: dict[str, dict[str, Any]] = {}
    edits: dict[str, dict[str, Any]] = {}
    backends = [name for name in options.backends if has_openvino() and (name != "openvino-bf16" or has_bfloat16())]
    for backend in ("torch", *backends):  # one after another, each beside diffusers: all at once need too much memory
        prepare("torch")
        network = compile_network(unet, backend, lambda: [(x, t, condition)] * 2)
        runs: dict[str, Callable[[], Any]] = {
            "diffusers": lambda: unet(x, t, encoder_hidden_states=condition).sample,
            backend: lambda network=network: network(x, t, condition),
            f"{backend}, single": lambda network=network: network(x[:1], t, condition[:1]),
            "matrix product": lambda: a @ a,
        }
        prepare(backend)
        difference = float((runs[backend]() - expected).std() / expected.std())
        seconds = in_turn(runs, options.repeats, prepare)
        peak = 2 * 4096**3 / seconds["matrix product"]
        own, single, theirs = (seconds[name] for name in (backend, f"{backend}, single", "diffusers"))
        steps[backend] = {
            "seconds": round(own, 2),
            "seconds_single": round(single, 2),
            "seconds_diffusers": round(theirs, 2),
            "times": round(theirs / own, 2),
            "share_of_peak": round(flops / own / peak, 2),
            "share_of_peak_diffusers": round(flops / theirs / peak, 2),
            "matrix_product_gflops": round(peak / 1e9, 1),
            "difference": difference,
        }
        pndm, _ = evaluations(Preset())
        for name, preset in PRESETS.items():
            guided, alone = evaluations(preset)
            taken = guided * own + alone * single
            edits[f"{name}, {backend}"] = {
                "predictions": [guided, alone],
                "seconds": round(taken, 1),
                "times": round(pndm * theirs / taken, 1),
            }
        del network, runs
    return {
        "teraflop": round(flops / 1e12, 3),
        "steps": steps,
        "edits": edits,
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
    }


def embedded(options: Options) -> dict[str, Any]:
    """Whole edits with the embedded model."""
    pipeline = load_pipeline()
    given: dict[str, Any] = {"exemplar": Image.fromarray(data.chelsea()), "box": (200, 60, 440, 300)}
    ways: dict[str, dict[str, Any]] = {
        "diffusers' way: pndm, 50 steps": {"scheduler": "pndm", "steps": 50},
        "torch": {},
        **{f"preset {name}": {"preset": name} for name in PRESETS},
    }
    if has_openvino():
        ways["preset fast, openvino-int8"] = {"preset": "fast", "backend": "openvino-int8"}
    runs: dict[str, Callable[[], Any]] = {
        name: lambda way=way: pipeline.edit(data.coffee(), **given, **way) for name, way in ways.items()
    }
    seconds = in_turn(runs, options.repeats)
    first = next(iter(seconds.values()))
    return {name: {"seconds": round(one, 3), "times": round(first / one, 1)} for name, one in seconds.items()}


def first_result(options: Options) -> dict[str, float]:
    """Seconds of a process of its own, from its start to its end, in which the embedded model makes one edit."""
    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(data.coffee()).save(Path(folder) / "source.png")
        Image.fromarray(data.chelsea()).save(Path(folder) / "exemplar.png")
        runs: dict[str, Callable[[], object]] = {}
        for name, given in {"import alone": None, "torch": {}, **{name: {"preset": name} for name in PRESETS}}.items():
            code = "from paint_by_example import load_pipeline" if given is None else FIRST.format(options=given)
            runs[name] = lambda code=code: subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
        return {name: round(seconds, 2) for name, seconds in in_turn(runs, options.repeats).items()}


if __name__ == "__main__":
    given = tyro.cli(Options)
    # Kept for this run alone: what a network with random weights converts to is of no further use, and takes 10 GB.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["PBE_CACHE"] = cache
        result: dict[str, Any] = {"threads": torch.get_num_threads()}
        if given.embedded:
            result["embedded"] = embedded(given)
        if given.first:
            result["first_result_seconds"] = first_result(given)
        if given.full_size:
            result["full_size"] = full_size(given)
    print(json.dumps(result) if given.json else json.dumps(result, indent=1, ensure_ascii=False))
