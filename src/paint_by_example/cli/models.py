"""``pbe info`` and ``pbe convert``: what a model is, and how it is stored."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .imports import quick_imports


@dataclass(frozen=True)
class Info:
    """Say what a model is: its parts, their sizes, its picture size and scheduler."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = "embedded"
    """embedded, a folder or file, or a repository of the Hugging Face hub: owner/name."""
    json: bool = False
    """Print one JSON object instead of a table."""


def info(options: Info) -> None:
    """Describe a model."""
    with quick_imports():
        from ..pipeline import describe

    description = describe(options.model)
    if options.json:
        print(json.dumps(description))
        return
    rows = list(flatten(description))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{width}}  {value}")


def flatten(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as (dotted name, text), whole numbers with separators."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            rows.append((prefix + name, f"{value:,}" if type(value) is int else str(value)))
    return rows


@dataclass(frozen=True)
class Convert:
    """Write a model in another layout, or make a start for training of Stable Diffusion 1.x."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IN")]
    """A folder in diffusers' layout, an LDM file (.ckpt or .safetensors), or a repository of the hub: owner/name."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """What to write: a .safetensors file in the LDM layout, or else a folder in diffusers' layout."""
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Type of the weights; as they are if not given."""
    image_encoder: str | None = None
    """For Stable Diffusion 1.x, also its inpainting model: CLIP, a folder or openai/clip-vit-large-patch14."""
    seed: int = 0
    """Seed of the layers that --image-encoder makes start at random."""
    variant: str | None = None
    """Variant of the files to read in a folder, such as fp16."""
    ema: bool = False
    """Take the averages that training kept of the weights, from an LDM file."""
    overwrite: bool = False
    """Replace a model that is at OUT."""


def convert(options: Convert) -> None:
    """Convert a model, print where it is."""
    import torch
    from tqdm import tqdm

    from .. import conversion

    with contextlib.ExitStack() as stack:
        bar: Any = None

        def start(total: int) -> None:
            nonlocal bar
            bar = stack.enter_context(tqdm(total=total, desc="writing", unit="B", unit_scale=True))

        conversion.convert(
            options.model,
            options.out,
            dtype=None if options.dtype is None else getattr(torch, options.dtype),
            variant=options.variant,
            image_encoder=options.image_encoder,
            seed=options.seed,
            ema=options.ema,
            overwrite=options.overwrite,
            on_start=start,
            on_bytes=lambda count: bar.update(count),
        )
    print(options.out)
