"""How fast: diffusers' parts as its deprecated pipeline drove them, against this package, in one run and in turn.

    python benchmarks/speed.py [--json]

Full size: Stable Diffusion 1.x's U-Net with nine input channels and random weights, pictures of 512 pixels, on the CPU;
seconds of one guided step (a batch of two) and its share of the machine's peak in a float32 matrix product, which is
measured in turn with the rest. Embedded model: whole edits, the ancestor's 50 steps of PNDM against the presets.
Other work on the machine slows all of them: compare figures of one run only.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from diffusers import UNet2DConditionModel
from PIL import Image
from skimage import data
from torch.utils.flop_counter import FlopCounterMode

from paint_by_example import load_pipeline
from paint_by_example.attention import collapse_cross_attention
from paint_by_example.compiled import Network, compile_network, has_bfloat16, has_openvino
from paint_by_example.presets import PRESETS


@dataclass
class Options:
    """Time both."""

    full_size: bool = True
    """Also the full-size network: takes 20 GB of memory and some minutes."""
    repeats: int = 3
    """Runs of each, after one that is not counted; medians are printed."""
    side: int = 512
    """Of the picture, pixels."""
    json: bool = False
    """Print one JSON object."""


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, one after another and again."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:
                taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


@torch.no_grad()
def full_size(options: Options) -> dict[str, Any]:
    """A guided step of the full-size network."""
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
    networks: dict[str, Network] = {}

    def ancestor() -> torch.Tensor:
        unet.set_attn_processor(dict(plain))
        return unet(x, t, encoder_hidden_states=condition).sample

    def collapsed() -> torch.Tensor:
        collapse_cross_attention(unet)
        return unet(x, t, encoder_hidden_states=condition).sample

    runs: dict[str, Callable[[], Any]] = {"diffusers": ancestor, "torch, collapsed": collapsed}
    collapse_cross_attention(unet)
    if has_openvino():
        networks["openvino"] = compile_network(unet, "openvino")
        if has_bfloat16():
            networks["openvino-bf16"] = compile_network(unet, "openvino-bf16")
    for name, network in networks.items():
        runs[name] = lambda network=network: network(x, t, condition)
    a = torch.randn(4096, 4096)
    runs["matrix product"] = lambda: a @ a
    difference = {
        name: float((run() - expected).std() / expected.std()) for name, run in runs.items() if name != "matrix product"
    }
    seconds = in_turn(runs, options.repeats)
    peak = 2 * 4096**3 / seconds.pop("matrix product")
    return {
        "teraflop": round(flops / 1e12, 3),
        "matrix_product_gflops": round(peak / 1e9, 1),
        "steps": {
            name: {
                "seconds": round(one, 2),
                "times": round(seconds["diffusers"] / one, 2),
                "share_of_peak": round(flops / one / peak, 2),
                "difference": difference[name],
            }
            for name, one in seconds.items()
        },
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
    runs: dict[str, Callable[[], Any]] = {
        name: lambda way=way: pipeline.edit(data.coffee(), **given, **way) for name, way in ways.items()
    }
    seconds = in_turn(runs, options.repeats)
    first = next(iter(seconds.values()))
    return {name: {"seconds": round(one, 3), "times": round(first / one, 1)} for name, one in seconds.items()}


if __name__ == "__main__":
    given = tyro.cli(Options)
    result: dict[str, Any] = {"embedded": embedded(given), "threads": torch.get_num_threads()}
    if given.full_size:
        result["full_size"] = full_size(given)
    print(json.dumps(result) if given.json else json.dumps(result, indent=1, ensure_ascii=False))
