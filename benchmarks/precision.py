"""How far off the U-Net's prediction is in fewer bits, by noise level, on inputs of edits it was not calibrated with.

    python benchmarks/precision.py [--json]

The error is the deviation of the difference to torch's prediction in float32, as a share of the prediction's deviation.
Variants in int8 leave more and more layers as they are; the last is what the backend openvino-int8 does. Also: the time
of a step with channels last to that with channels first, as torch runs it, of the model and, with --side, of the
full-size U-Net with random weights.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from diffusers import UNet2DConditionModel

from paint_by_example import load_pipeline
from paint_by_example.attention import collapse_cross_attention
from paint_by_example.calibration import unet_inputs
from paint_by_example.compiled import OpenVINONetwork, has_bfloat16
from paint_by_example.int8 import FLOAT, last_block


@dataclass
class Options:
    """Measure precision."""

    model: str = "embedded"
    """Model to measure."""
    edits: int = 6
    """Edits whose inputs count."""
    side: int = 0
    """Of a picture for the full-size U-Net, pixels; 0 leaves it out."""
    json: bool = False
    """Print one JSON object."""


def layout_times(unet: Any, given: tuple[torch.Tensor, ...]) -> dict[str, float]:
    """Median seconds of a step with channels first and last, in turn, and how far they are apart."""
    x, t, condition = given
    taken: dict[str, list[float]] = defaultdict(list)
    found = {}
    for number in range(6):
        for name, layout in (("first", torch.contiguous_format), ("last", torch.channels_last)):
            unet.to(memory_format=layout)
            started = time.perf_counter()
            found[name] = unet(x, t, encoder_hidden_states=condition).sample
            if number:
                taken[name].append(time.perf_counter() - started)
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    difference = float((found["first"] - found["last"]).std() / found["first"].std())
    return {"last_to_first": round(seconds["last"] / seconds["first"], 3), "difference": difference}


@torch.no_grad()
def measure(options: Options) -> dict[str, Any]:
    """All figures."""
    pipeline = load_pipeline(options.model, device="cpu")
    unet = pipeline.unet
    seen = list(unet_inputs(pipeline, options.edits, seed=1))
    expected = [unet(x, t, encoder_hidden_states=condition).sample for x, t, condition in seen]
    ends = ("nothing left", ()), ("first and last, time", FLOAT), ("and the last block", (*FLOAT, last_block(unet)))
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        networks: dict[str, OpenVINONetwork] = {"float32": OpenVINONetwork(unet, "f32", Path(folder))}
        if has_bfloat16():
            networks["bfloat16"] = OpenVINONetwork(unet, "bf16", Path(folder))
        for name, patterns in ends:
            networks[f"int8, {name}"] = OpenVINONetwork(
                unet, "int8", Path(folder) / name, lambda: unet_inputs(pipeline), unquantised=patterns
            )
        for name, network in networks.items():
            errors: dict[int, list[float]] = defaultdict(list)
            for given, wanted in zip(seen, expected, strict=True):
                errors[int(given[1])].append(float((network(*given) - wanted).std() / wanted.std()))
            result[name] = {t: round(statistics.mean(values), 4) for t, values in errors.items()}
    result["channels"] = {options.model: layout_times(unet, seen[0])}
    if options.side:
        large: Any = UNet2DConditionModel(sample_size=64, in_channels=9, cross_attention_dim=768, attention_head_dim=8)
        collapse_cross_attention(large.eval())
        x = torch.randn(2, 9, options.side // 8, options.side // 8)
        result["channels"]["full size"] = layout_times(large, (x, torch.tensor(500), torch.randn(2, 1, 768)))
    return result


if __name__ == "__main__":
    given = tyro.cli(Options)
    result = measure(given)
    print(json.dumps(result) if given.json else json.dumps(result, indent=1))
