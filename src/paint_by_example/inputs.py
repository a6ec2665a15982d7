"""What people hand to the pipeline, as what it computes with: pictures of any kind to tensors, seeds to generators.

Of sources, masks, exemplars and seeds there is one for all, or one for each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from .errors import MaskError, PictureError, UserError
from .images import Picture, image_tensor, load_exemplar, load_image, load_mask, mask_tensor
from .sampling import seeded_generators

T = TypeVar("T")


@dataclass(frozen=True)
class Blend:
    """Several exemplars as one: what the U-Net is told is the weighted mean of their conditions.

    A condition enters the U-Net linearly, as a constant vector in each block, so that the mean of conditions is the
    mean of what they do there. Two exemplars of one object tell more of it than one, and
    ``Blend([a, b], [1 - x, x])`` goes from a to b as x goes from 0 to 1.
    """

    exemplars: Sequence[Picture]
    """At least one."""
    weights: Sequence[float] | None = None
    """One for each exemplar, divided by their sum; equal by default. A negative one leads away from its exemplar."""

    def __post_init__(self) -> None:
        if isinstance(self.exemplars, str) or not len(self.exemplars):
            raise UserError("a Blend needs a list of at least one exemplar")
        self.shares()

    def shares(self) -> list[float]:
        """The weights, with sum 1.

        Raises:
            UserError: there are not as many as exemplars, or they have no positive sum.
        """
        weights = [1.0] * len(self.exemplars) if self.weights is None else [float(w) for w in self.weights]
        if len(weights) != len(self.exemplars):
            raise UserError(f"a Blend of {len(self.exemplars)} exemplars needs as many weights, got {len(weights)}")
        total = math.fsum(weights)
        if not (all(map(math.isfinite, weights)) and total > 0):
            raise UserError(f"the weights of a Blend must be finite and of a positive sum, got {weights}")
        # Left alone where the sum is 1 but for rounding, so that shares that were recorded come out as they were.
        return weights if math.isclose(total, 1, rel_tol=1e-12) else [weight / total for weight in weights]


@dataclass(frozen=True)
class Encoded:
    """An exemplar that was encoded before, such as those of a library."""

    picture: Picture
    features: Tensor
    """What the frozen part of the encoder said of it, (F,); whoever gives it sees that it is this model's encoder."""


Exemplar: TypeAlias = Picture | Blend | Encoded


def exemplar_pictures(exemplar: Exemplar) -> list[tuple[Image.Image, float]]:
    """An exemplar's pictures, RGB, and the weight of each; the weights have sum 1.

    Raises:
        PictureError: for a picture that cannot be used.
    """
    if isinstance(exemplar, Blend):
        return [(load_exemplar(one), share) for one, share in zip(exemplar.exemplars, exemplar.shares(), strict=True)]
    if isinstance(exemplar, Encoded):
        return [(load_exemplar(exemplar.picture), 1.0)]
    return [(load_exemplar(exemplar), 1.0)]


# --- one or several ---------------------------------------------------------------------------------------------------


def as_list(value: Any) -> list[Any]:
    """One or several, as a list with something in it.

    Four whole numbers are one box, and an array (B, H, W, C) is B pictures.
    """
    many = isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 4)
    values = list(value) if many else [value]
    if len(values) == 4 and all(isinstance(side, int | np.integer) for side in values):
        return [value]
    if not values:
        raise UserError("an empty list was given; give at least one source, mask and exemplar")
    return values


def common_count(**parts: int) -> int:
    """How many there are of each after those of which there is one are repeated.

    Raises:
        UserError: their numbers do not go together.
    """
    count = max(parts.values())
    if any(number not in (1, count) for number in parts.values()):
        *most, last = (f"{number} {name}" for name, number in parts.items())
        raise UserError(f"{', '.join(most)} and {last} do not go together; give one or {count} of each")
    return count


def repeated(values: list[T], count: int) -> Iterator[T]:
    """As many values as there are; of one that is for all, so many."""
    return iter(values * (count if len(values) == 1 else 1))


# --- pictures to tensors ----------------------------------------------------------------------------------------------


def source_tensors(image: Any) -> Tensor:
    """Sources of any kind as (B, 3, H, W) in [-1, 1].

    Raises:
        PictureError: for what is no picture, or for sizes that differ.
    """
    image = _join(image)
    if not isinstance(image, Tensor):
        pictures = [load_image(picture).convert("RGB") for picture in as_list(image)]
        return _stack([image_tensor(np.asarray(picture)) for picture in pictures], "sources")
    sources = image[None] if image.ndim == 3 else image
    if sources.ndim != 4 or sources.shape[1] != 3 or not sources.numel():
        raise PictureError(f"sources must be of shape (B, 3, H, W), got {tuple(image.shape)}")
    if not -1 <= sources.min() <= sources.max() <= 1:  # written so that NaN fails it, here and below
        raise PictureError(f"sources must be in [-1, 1], got {sources.min():g} to {sources.max():g}")
    return sources.float()


def mask_tensors(mask: Any, half: Literal["repaint", "keep"] = "repaint") -> Tensor:
    """Masks of any kind as (B, 1, H, W) in {0, 1}.

    Args:
        mask: pictures, or a tensor in [0, 1].
        half: what a tensor's value of exactly one half means.

    Raises:
        MaskError: for what is no mask, or one that selects nothing.
    """
    mask = _join(mask)
    if not isinstance(mask, Tensor):
        pictures = [load_image(picture, "mask") for picture in as_list(mask)]
        return _stack([mask_tensor(load_mask(picture, picture.size)) for picture in pictures], "masks")
    masks = mask[None] if mask.ndim == 2 else mask
    masks = masks[:, None] if masks.ndim == 3 else masks
    if masks.ndim != 4 or masks.shape[1] != 1 or not masks.numel():
        raise MaskError(f"masks must be of shape (B, 1, H, W), got {tuple(mask.shape)}")
    if not 0 <= masks.min() <= masks.max() <= 1:
        raise MaskError(f"masks must be in [0, 1], got {masks.min():g} to {masks.max():g}")
    selected = masks >= 0.5 if half == "repaint" else masks > 0.5
    if not selected.flatten(1).any(1).all():
        raise MaskError("a mask selects nothing; more than 0.5 marks what is repainted")
    return selected.float()


def check_sizes(source: Tensor, mask: Tensor) -> None:
    """Raises a `MaskError` if sources and masks are not of one size."""
    if source.shape[-2:] != mask.shape[-2:]:
        raise MaskError(f"the mask is {size_of(mask)} pixels but the source is {size_of(source)}; both need one size")


def pad_to(x: Tensor, factor: int) -> Tensor:
    """Repeats the last row and column until both sides are multiples: (B, C, H, W) to (B, C, H', W')."""
    height, width = x.shape[-2:]
    padding = (0, -width % factor, 0, -height % factor)
    return F.pad(x, padding, mode="replicate") if any(padding) else x


def size_of(x: Tensor) -> str:
    """Width and height for messages."""
    return f"{x.shape[-1]} x {x.shape[-2]}"


def _join(pictures: Any) -> Any:
    """A list of tensors, of one picture each, as one tensor; anything else as it is."""
    if not isinstance(pictures, list | tuple) or not any(isinstance(picture, Tensor) for picture in pictures):
        return pictures
    if not all(isinstance(picture, Tensor) for picture in pictures):
        raise PictureError("tensors and other pictures were given in one list; give all as tensors, or none")
    if len({tuple(picture.shape) for picture in pictures}) > 1:
        raise PictureError("tensors of one call must have one shape")
    return torch.cat(list(pictures)) if pictures[0].ndim == 4 else torch.stack(list(pictures))


def _stack(tensors: list[Tensor], what: str) -> Tensor:
    """Join (1, C, H, W) tensors of one size, or say that they are not."""
    sizes = {size_of(tensor) for tensor in tensors}
    if len(sizes) > 1:
        raise PictureError(f"{what} of one call must have one size, got {', '.join(sorted(sizes))} pixels")
    return torch.cat(tensors)


# --- seeds and generators ---------------------------------------------------------------------------------------------


def check_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Seeds as Python's integers.

    Raises:
        UserError: there is none, or one out of range.
    """
    listed = [seeds] if isinstance(seeds, int | np.integer) else seeds
    if not len(listed):
        raise UserError("no seed was given; one result is made for each seed")
    for seed in listed:
        if not 0 <= seed < 2**64:
            raise UserError(f"seed must be in 0 .. 2^64 - 1, got {seed}")
    return [int(seed) for seed in listed]


def result_generators(
    generator: torch.Generator | Sequence[torch.Generator] | None, seeds: Sequence[int] | None, count: int
) -> list[torch.Generator]:
    """One generator a result.

    Args:
        generator: one that all results share, or one each.
        seeds: one for all, each of which then starts from it anew, or one each; in place of generators.
        count: results.

    Raises:
        UserError: there are neither one nor as many as results, or both kinds were given.
    """
    if seeds is not None:
        if generator is not None:
            raise UserError("both a generator and seeds were given; give one of them")
        common_count(seeds=len(seeds), results=count)
        return seeded_generators(list(seeds) * (count if len(seeds) == 1 else 1))
    if generator is None:
        # Seeded from torch's global generator, which programs written for diffusers set by torch.manual_seed.
        generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
    if isinstance(generator, torch.Generator):
        return [generator] * count
    if len(generator) != count:
        raise UserError(f"{len(generator)} generators do not go with {count} results; give one, or one for each")
    return list(generator)
