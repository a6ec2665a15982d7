"""Where this package and its ancestors differ in what they do with the same weights, in one table.

"original" is the authors' code (its `scripts/inference.py`), "diffusers" the class that diffusers deprecated. None is
this package, which takes the better of each; `docs/checkpoints.md` says which and why. A mode is about behaviour, not
about files: it goes with a checkpoint in any layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from .errors import PictureError, UserError

Compat: TypeAlias = Literal["original", "diffusers"]

Fit: TypeAlias = Literal["squash", "centre", "pad"]
Shrink: TypeAlias = Literal["area", "bilinear", "nearest"]

MAX_SIDE = 100_000  # pixels an exemplar's longer side may get when its shorter one is made to fit, before the crop


@dataclass(frozen=True)
class Behaviour:
    """What a mode does."""

    exemplar: Fit
    """How an exemplar becomes the encoder's square, by PIL's bicubic filter: squashed to it, or the shorter side
    resized and the centre cut out. An encoder that wants it another way says so: ``exemplar_fit``."""
    latent_mask: Shrink
    """How the mask gets to latent resolution: share of each cell, bilinear without antialiasing, or nearest pixel."""
    posterior: Literal["mean", "sample"]
    """What of the autoencoder's posterior is the masked latent."""
    first_draw: Literal["latents", "posterior"]
    """What noise is drawn first where the posterior is sampled."""
    guided: Literal["not 1", "above 1"]
    """For which scales there is guidance; otherwise the conditional prediction counts alone."""
    half: Literal["repaint", "keep"]
    """What a mask tensor's value of exactly one half means. In pictures there is none: 127 keeps, 128 repaints."""
    noise: Literal["each in float32", "batch in float32", "batch in the weights' type"]
    """How noise is drawn: each picture's by itself, or the batch's in one go where it shares a generator."""
    runs: Literal["each", "batch"]
    """Whether in `__call__` each result has a run of its own, whose bits do not depend on the others, or none has."""
    sizes: Literal["any", "multiples"]
    """Whether `__call__` takes pictures of any size or only what divides by the latent factor."""


BEHAVIOURS: dict[Compat | None, Behaviour] = {
    None: Behaviour(
        exemplar="squash",
        latent_mask="area",
        posterior="mean",
        first_draw="latents",
        guided="not 1",
        half="repaint",
        noise="each in float32",
        runs="each",
        sizes="any",
    ),
    "original": Behaviour(
        exemplar="squash",
        latent_mask="bilinear",
        posterior="sample",
        first_draw="posterior",
        guided="not 1",
        half="keep",
        noise="batch in float32",
        runs="batch",
        sizes="multiples",
    ),
    "diffusers": Behaviour(
        exemplar="centre",
        latent_mask="nearest",
        posterior="sample",
        first_draw="latents",
        guided="above 1",
        half="keep",
        noise="batch in the weights' type",
        runs="batch",
        sizes="multiples",
    ),
}


def check_compat(compat: str | None) -> Compat | None:
    """The mode of a name.

    Raises:
        UserError: There is none of that name.
    """
    for known in BEHAVIOURS:
        if compat == known:
            return known
    raise UserError(f"compat must be 'original', 'diffusers' or None, got {compat!r}")


def fit_exemplar(exemplar: Image.Image, side: int, how: Fit = "squash") -> Image.Image:
    """Makes an exemplar the square that the encoder takes.

    Args:
        exemplar: RGB, of any size.
        side: Of the result, pixels.
        how: See `Behaviour.exemplar`; or with the longer side resized and a plain border, of the median colour of the
            exemplar's own, beside the shorter one.

    Returns:
        RGB, side x side.

    Raises:
        PictureError: The exemplar is so long that it cannot be resized without being squashed.
    """
    if how == "squash":
        return exemplar.resize((side, side), Image.Resampling.BICUBIC)
    if how == "pad":
        pixels = np.asarray(exemplar)
        edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        return ImageOps.pad(exemplar, (side, side), color=tuple(int(value) for value in np.median(edge, axis=0)))
    short = min(exemplar.size)
    width, height = (int(side * length / short) for length in exemplar.size)
    if max(width, height) > MAX_SIDE:
        raise PictureError(
            f"the exemplar is {exemplar.width} x {exemplar.height} pixels, too long to take its centre; crop it first"
        )
    left, top = (width - side) // 2, (height - side) // 2
    resized = exemplar.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + side, top + side))


def latent_mask(mask: Tensor, size: tuple[int, ...], how: Shrink = "area") -> Tensor:
    """The mask at latent resolution; by default the share of each cell that is repainted, so that no stroke vanishes.

    Args:
        mask: (B, 1, H, W) in {0, 1}.
        size: (h, w).
        how: See `Behaviour.latent_mask`.

    Returns:
        (B, 1, h, w) in [0, 1].
    """
    if how == "bilinear":
        return F.interpolate(mask, size=size, mode="bilinear", align_corners=False, antialias=False)
    return F.interpolate(mask, size=size, mode=how)


def guidance(scale: float | Tensor, guided: Literal["not 1", "above 1"]) -> float | Tensor:
    """The scale that is used for one that was asked for, (B,) or one for all; see `Behaviour.guided`."""
    if guided == "not 1":
        return scale
    return scale.clamp_min(1) if isinstance(scale, Tensor) else max(scale, 1.0)


def global_generator(device: torch.device) -> torch.Generator:
    """The generator that ``torch.manual_seed`` seeds: what the ancestors draw from if they are given none."""
    if device.type == "cuda":
        torch.cuda.init()
        index = torch.cuda.current_device() if device.index is None else device.index
        generator: torch.Generator = torch.cuda.default_generators[index]
        return generator
    return torch.default_generator
