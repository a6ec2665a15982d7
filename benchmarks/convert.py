"""How long converting a model of full size takes, and how much memory: a random checkpoint in the authors' layout.

    python benchmarks/convert.py [--json] [--edit] [--folder /tmp]

The released model's weights are not needed: the checkpoint has its names and shapes and random numbers, 5.24 GB. It is
converted to a folder and that back to one file, which is compared with the first bit for bit; with --edit the folder is
then edited with, two steps at 512 x 512. Each runs in a process of its own, whose peak of resident memory is printed:
pages of mapped files that the system could take back count too. All files are removed at the end; there must be room
for three times the size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

PBE = (sys.executable, "-m", "paint_by_example")


@dataclass
class Options:
    """Time conversions."""

    edit: bool = False
    """Also edit a picture with the converted model, on the CPU."""
    folder: Path | None = None
    """Where to put the files; the system's place for temporary ones if not given."""
    json: bool = False
    """Print one JSON object."""


def make(file: Path) -> None:
    """Write a random checkpoint of full size."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig

    from paint_by_example import PaintByExampleImageEncoder, ldm
    from paint_by_example.network import outline, shapes_of

    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    }
    vae = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    networks = {
        "unet": outline(UNet2DConditionModel, {"in_channels": 9, "cross_attention_dim": 768}),
        "vae": outline(AutoencoderKL, vae),
        "image_encoder": outline(PaintByExampleImageEncoder, CLIPVisionConfig(**vision)),
    }
    shapes = {
        name: shape
        for part, module in networks.items()
        for name, shape in ldm.expected_shapes(part, shapes_of(module)).items()
    }
    torch.manual_seed(0)
    numbers = torch.randn(10_000_019) * 0.02  # a prime, so that no two tensors start alike
    tensors = dict(ldm.schedule(ldm.SCHEDULER))
    start = 0
    for name, shape in shapes.items():
        tensor = torch.empty(shape)
        flat = tensor.view(-1)
        done = 0
        while done < len(flat):
            count = min(len(flat) - done, len(numbers) - start)
            flat[done : done + count] = numbers[start : start + count]
            done, start = done + count, (start + count) % len(numbers)
        tensors[name] = tensor
    torch.save({"global_step": 0, "state_dict": tensors}, file)


def compare(first: Path, second: Path) -> None:
    """Complain if two files do not hold the same tensors."""
    import torch

    from paint_by_example.weights import read_tensors

    ours, theirs = read_tensors(first), read_tensors(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def timed(*command: str | Path) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def measure(options: Options) -> dict[str, float]:
    """All figures."""
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        ldm, folder, back = (Path(place) / name for name in ("model.ckpt", "model", "back.safetensors"))
        timed(sys.executable, __file__, "make", ldm)  # not here: a process starts with its parent's peak
        size = ldm.stat().st_size
        figures: dict[str, float] = {"size_gb": size / 1e9}
        for name, command in {
            "to_folder": (*PBE, "convert", ldm, folder),
            "to_file": (*PBE, "convert", folder, back),
            "info": (*PBE, "info", ldm),
        }.items():
            seconds, peak = timed(*command)
            figures |= {f"{name}_s": seconds, f"{name}_peak_gb": peak / 1e9, f"{name}_peak_to_size": peak / size}
        timed(sys.executable, __file__, "compare", ldm, back)
        ldm.unlink()
        if options.edit:
            from PIL import Image

            Image.effect_noise((512, 512), 64).convert("RGB").save(Path(place) / "source.png")
            pictures = ("edit", f"{place}/source.png", "--exemplar", f"{place}/source.png", "--box", "128,128,384,384")
            more = ("--steps", "2", "--device", "cpu", "--model", folder, "--output", f"{place}/out.png")
            figures["edit_s"], peak = timed(*PBE, *pictures, *more)
            figures["edit_peak_gb"] = peak / 1e9
    return figures


def main() -> None:
    options = tyro.cli(Options)
    figures = measure(options)
    if options.json:
        print(json.dumps({name: round(value, 3) for name, value in figures.items()}))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["compare"]:
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
