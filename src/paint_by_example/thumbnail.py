"""The embedded model's exemplar encoder: one vector of what the object in a picture looks like, without its backdrop.

A matte says which pixels are the object's. The object alone, on grey, is brought to the middle of a square and to its
full size, however small and wherever it was, and shrunk to a thumbnail of the latents the U-Net works on. The
thumbnail's principal components are the vector, and that alone goes further: the content bottleneck. The layers that
decode it are in the U-Net (`layout.LayoutUNet`). None of this learns while the U-Net does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from .autoencoder import PatchAutoencoder, ResidualBlock
from .compat import Fit
from .efficientnet import MEAN, STAGES, STD, EfficientNetLite
from .layout import CELL, COARSE, LAYOUT_SIZE, PARTS

SEEN = (0, 1, 2, 4)  # the backbone's stages that the matte is made of; those after the last are not kept
MARGIN = 1.04  # side of the square around an object, as a share of the object's longest side


class Matte(nn.Module):
    """How much of each pixel is the object's: features of a backbone, joined from the coarsest to the finest.

    Args:
        width: channels at the coarsest.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        channels = [width // 4, width // 2, width, width]
        self.look = nn.ModuleList(
            nn.Conv2d(STAGES[stage].channels, c, 1) for stage, c in zip(SEEN, channels, strict=True)
        )
        self.think = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(c) for _ in range(1 + (c == width)))) for c in channels
        )
        self.widen = nn.ModuleList(nn.Conv2d(c, b, 1) for b, c in pairwise(channels))
        self.logit = nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Logits.

        Args:
            maps: of all of the backbone's stages.

        Returns:
            (B, 1, h, w), as fine as the first stage.
        """
        x: Tensor | None = None
        for level in reversed(range(len(SEEN))):
            here = self.look[level](maps[SEEN[level]])
            if x is not None:
                here = here + F.interpolate(self.widen[level](x), here.shape[-2:], mode="bilinear")
            x = self.think[level](here)
        return cast(Tensor, self.logit(F.silu(cast(Tensor, x))))


class EmbeddedImageEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """EfficientNet-Lite0 in CLIP's place: matte, thumbnail, principal components.

    Args:
        image_size: side of the exemplar, pixels.
        feature_size: F, principal components kept of the thumbnail, and width of the condition.
        latent_channels: C, of the latents' channels, the first of which say most, those that the thumbnail has.
    """

    config_name = "config.json"
    exemplar_fit: Fit = "pad"  # the thumbnail keeps the object's own proportions

    @register_to_config
    def __init__(
        self,
        image_size: int = 128,
        feature_size: int = 1024,
        latent_channels: int = COARSE,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = EfficientNetLite(0, stages=max(SEEN) + 1)
        self.matte = Matte()
        self.latents = nn.Conv2d(3, latent_channels, CELL, stride=CELL)
        self.components = nn.Linear((latent_channels + PARTS**2) * LAYOUT_SIZE**2, feature_size)
        for part in (self.backbone, self.matte, self.latents, self.components):
            part.requires_grad_(False)
        self.uncond_vector = nn.Parameter(torch.randn((1, 1, feature_size)))

    @property
    def feature_size(self) -> int:
        """F."""
        return int(self.config.feature_size)

    def alpha(self, pixel_values: Tensor) -> Tensor:
        """How much of each pixel is the object's.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.

        Returns:
            (B, 1, S / 2, S / 2) in [0, 1].
        """
        return cast(Tensor, self.matte(self.backbone(pixel_values))).sigmoid()

    def thumbnail(self, pixel_values: Tensor, moves: Tensor | None = None, alpha: Tensor | None = None) -> Tensor:
        """The object alone, on grey, in the middle of a square, in latents.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.
            moves: (B, 2, 3), how the object is moved, turned and stretched within the square, as `affine_grid` has it.
            alpha: of these pictures, where it is known.

        Returns:
            (B, C + 4, n, n): the latents, and how much of each quarter of a cell the object fills, -1 to 1.
        """
        alpha = self.alpha(pixel_values) if alpha is None else alpha
        mean, std = (pixel_values.new_tensor(x)[:, None, None] for x in (MEAN, STD))
        picture = (pixel_values * std + mean) * 2 - 1
        side = LAYOUT_SIZE * CELL
        place = around(alpha, 2 * side, moves)  # twice as fine, then averaged: every pixel counts
        alpha = F.grid_sample(alpha, place, padding_mode="zeros", align_corners=False)
        picture = F.grid_sample(picture, place, padding_mode="border", align_corners=False)
        return describe(self.latents, F.avg_pool2d(picture * alpha, 2), F.avg_pool2d(alpha, 2))

    def features(self, pixel_values: Tensor) -> Tensor:
        """Principal components of the thumbnail.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.

        Returns:
            (B, F).
        """
        return cast(Tensor, self.components(self.thumbnail(pixel_values).flatten(1)))

    def decode(self, features: Tensor) -> Tensor:
        """The features as a condition: (B, F) to (B, 1, F). The layers that decode it are the U-Net's."""
        return features[:, None]

    def forward(self, pixel_values: Tensor, return_uncond_vector: bool = False) -> Any:
        """Encode exemplars.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.
            return_uncond_vector: also return the null condition, (1, 1, F).

        Returns:
            The condition, (B, 1, F).
        """
        condition = self.decode(self.features(pixel_values))
        return (condition, self.uncond_vector) if return_uncond_vector else condition

    @torch.no_grad()
    def take_latents_of(self, vae: PatchAutoencoder) -> None:
        """Let thumbnails be in an autoencoder's latents."""
        for name, tensor in vae.components.state_dict().items():
            kept = self.latents.get_parameter(name)
            kept.copy_(tensor[: len(kept)])

    @torch.no_grad()
    def fit(self, thumbnails: Tensor) -> nn.Linear:
        """Set the principal components from thumbnails of training exemplars, and the null condition.

        They are those of the thumbnails' pixels, colours and alpha, and not of the latents, whose fine channels count
        for more than is seen of them: of as many numbers, they keep most. Components are scaled by the root of their
        deviation: fine differences between exemplars reach the learned layers without the noise of the last components
        being blown up to full size.

        Args:
            thumbnails: (N, C + 4, n, n).

        Returns:
            The layer that leads from the components back to the flat thumbnail, as well as a linear one can.
        """
        flat = thumbnails.flatten(1).double()
        mean = flat.mean(0)
        fine = self.latents.weight.flatten(1).double().norm(dim=1)  # of orthogonal patterns: how much less is seen
        alpha = fine.new_full((PARTS**2,), 0.5 * CELL / PARTS)  # from -1 to 1, of so many pixels
        seen = torch.cat([1 / fine, alpha]).repeat_interleave(LAYOUT_SIZE**2)
        values, vectors = torch.linalg.eigh(torch.cov(((flat - mean) * seen).T))
        kept = self.components.out_features
        values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
        scale = values.clamp_min(1e-12) ** -0.25
        scale = scale / (scale**2 * values).mean().sqrt()
        weight = (vectors * scale).T * seen
        self.components.weight.copy_(weight)
        self.components.bias.copy_(-(weight @ mean))
        back = nn.Linear(kept, flat.shape[1])
        back.weight.copy_(vectors / scale / seen[:, None])
        back.bias.copy_(mean)
        channels = self.latents.out_channels
        nothing = torch.zeros_like(thumbnails[:1])
        nothing[:, :channels] = cast(Tensor, self.latents.bias)[:, None, None]
        nothing[:, channels:] = -1
        self.uncond_vector.copy_(self.components(nothing.flatten(1))[None])
        return back


def describe(latents: nn.Conv2d, picture: Tensor, alpha: Tensor) -> Tensor:
    """A thumbnail.

    Args:
        latents: makes a cell of each patch of pixels.
        picture: (B, 3, 8 n, 8 n) in [-1, 1], multiplied by alpha, so that grey is where the object is not.
        alpha: (B, 1, 8 n, 8 n) in [0, 1].

    Returns:
        (B, C + 4, n, n).
    """
    there = F.pixel_unshuffle(F.avg_pool2d(alpha, CELL // PARTS), PARTS)
    return torch.cat([latents(picture), 2 * there - 1], dim=1)


def around(alpha: Tensor, side: int, moves: Tensor | None = None) -> Tensor:
    """Where to look to see an object in full: a square around what is more there than not.

    Args:
        alpha: (B, 1, h, h) in [0, 1]; where it finds no object, the square is the whole picture.
        side: S, of the square, pixels.
        moves: see `EmbeddedImageEncoder.thumbnail`.

    Returns:
        (B, S, S, 2), across and down, as `grid_sample` takes it.
    """
    there = F.avg_pool2d(alpha.float(), 3, stride=1, padding=1)[:, 0] > 0.5  # lonely pixels do not count
    ends = [span(there.any(dim)) for dim in (1, 2)]
    middle = torch.stack([(first + last) / 2 for first, last in ends], dim=-1)
    half = torch.stack([(last - first) / 2 for first, last in ends], dim=-1).amax(-1) * MARGIN
    steps = (torch.arange(side, device=alpha.device) + 0.5) / side * 2 - 1
    down, across = torch.meshgrid(steps, steps, indexing="ij")
    square = torch.stack([across, down], dim=-1)[None]
    if moves is not None:
        square = torch.cat([square, torch.ones_like(square[..., :1])], dim=-1) @ moves[:, None].mT
    place = square * half[:, None, None, None] + middle[:, None, None]
    return place.to(alpha.dtype)


def span(there: Tensor) -> tuple[Tensor, Tensor]:
    """Where the first True of each row begins and the last ends, -1 to 1; all of it where none is: (B, n) to (B,)."""
    count = there.shape[1]
    edges = torch.arange(count + 1, device=there.device) / count * 2 - 1
    some = there.any(1)
    first = torch.where(some, torch.where(there, edges[:-1], 1).amin(1), -1)
    last = torch.where(some, torch.where(there, edges[1:], -1).amax(1), 1)
    return first, last
