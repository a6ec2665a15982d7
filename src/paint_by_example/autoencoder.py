"""The embedded model's latent space: principal components of picture patches, with a small decoder that joins them.

Encoding is linear and exact: an 8x8 patch of the picture becomes its first principal components, scaled so that the
coarse ones do not drown the fine ones. It needs no training beyond the components themselves. Decoding inverts it and
adds what neighbouring patches tell about edges, by a convolutional network that works at latent resolution, and another
that goes over the result.
"""

from __future__ import annotations

from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

REFINED = 4  # pixels to a place of the second network, per side


class Exact:
    """A posterior without variance, behind the interface of diffusers' `DiagonalGaussianDistribution`."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The mean, whatever the generator."""
        return self.mean

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return x + cast(Tensor, self.conv2(nn.functional.silu(self.conv1(nn.functional.silu(x)))))


class Refiner(nn.Module):
    """Goes over a picture: what it adds is found at a quarter of the resolution.

    Args:
        channels: of its residual blocks.
        blocks: how many.
    """

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        last = nn.Conv2d(channels, 3 * REFINED**2, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(cast(Tensor, last.bias))
        self.added = nn.Sequential(
            nn.PixelUnshuffle(REFINED),
            nn.Conv2d(3 * REFINED**2, channels, 3, padding=1),
            *(ResidualBlock(channels) for _ in range(blocks)),
            nn.SiLU(),
            last,
            nn.PixelShuffle(REFINED),
        )

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) to the same."""
        return picture + cast(Tensor, self.added(picture))


class PatchAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Patches to principal components and back, with the interface of diffusers' `AutoencoderKL`.

    Args:
        patch_size: side of a patch, pixels: the factor between picture and latents.
        latent_channels: principal components kept.
        decoder_channels: width of the decoder's network.
        decoder_blocks: its residual blocks; 0 leaves the linear inverse alone.
        refiner_channels: width of the network that goes over the result.
        refiner_blocks: its residual blocks; 0 leaves it out.
        scaling_factor: 1, since the scale is part of the components.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        patch_size: int = 8,
        latent_channels: int = 12,
        decoder_channels: int = 128,
        decoder_blocks: int = 3,
        refiner_channels: int = 96,
        refiner_blocks: int = 0,
        scaling_factor: float = 1.0,
    ) -> None:
        super().__init__()
        self.components = nn.Conv2d(3, latent_channels, patch_size, stride=patch_size)
        self.inverse = nn.ConvTranspose2d(latent_channels, 3, patch_size, stride=patch_size)
        self.components.requires_grad_(False)
        self.inverse.requires_grad_(False)
        self.detail = nn.Sequential(
            nn.Conv2d(latent_channels, decoder_channels, 3, padding=1),
            *(ResidualBlock(decoder_channels) for _ in range(decoder_blocks)),
            nn.SiLU(),
            nn.Conv2d(decoder_channels, 3 * patch_size**2, 3, padding=1),
            nn.PixelShuffle(patch_size),
        )
        nn.init.zeros_(cast(nn.Conv2d, self.detail[-2]).weight)
        nn.init.zeros_(cast(Tensor, cast(nn.Conv2d, self.detail[-2]).bias))
        self.refiner = Refiner(refiner_channels, refiner_blocks) if refiner_blocks else nn.Identity()

    @torch.no_grad()
    def fit(self, patches: Tensor, whitening: float = 0.5) -> Tensor:
        """Set the components from patches.

        Args:
            patches: (N, 3, P, P) in [-1, 1].
            whitening: 0 keeps the components' own variances, 1 makes them equal, up to one common scale that gives the
                latents an overall variance of 1.

        Returns:
            The share of the variance that each component holds, (C,), largest first.
        """
        flat = patches.double().flatten(1)
        mean = flat.mean(0)
        covariance = torch.cov((flat - mean).T)
        variances, vectors = torch.linalg.eigh(covariance)
        channels = self.components.out_channels
        variances, vectors = variances.flip(0)[:channels], vectors.flip(1)[:, :channels]
        scale = variances.clamp_min(1e-12) ** (-whitening / 2)  # a direction without variance would divide by 0
        scale = scale / (scale**2 * variances).mean().sqrt()
        shape = self.components.weight.shape
        forward = (vectors * scale).T.reshape(shape)
        self.components.weight.copy_(forward)
        cast(Tensor, self.components.bias).copy_(-(forward.flatten(1) @ mean))
        self.inverse.weight.copy_((vectors / scale).T.reshape(shape))
        # ConvTranspose2d has one bias a channel, not a pixel; patches have no mean pattern beyond it
        cast(Tensor, self.inverse.bias).copy_(mean.reshape(3, -1).mean(1))
        return cast(Tensor, variances / torch.trace(covariance))

    @apply_forward_hook  # without it, offloading would not notice: this is not the call to `forward` it waits for
    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[Exact]:
        """Encode pictures.

        Args:
            x: (B, 3, H, W) in [-1, 1], H and W multiples of the patch size.
            return_dict: as in diffusers.

        Returns:
            ``.latent_dist``, whose sample and mode are (B, C, H / P, W / P), variance about 1.
        """
        posterior = Exact(self.components(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(
        self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None
    ) -> DecoderOutput | tuple[Tensor]:
        """Decode latents.

        Args:
            z: (B, C, h, w).
            return_dict: as in diffusers.
            generator: not used; there for the common interface.

        Returns:
            ``.sample``, (B, 3, h P, w P), about [-1, 1].
        """
        sample = self.refiner(self.inverse(z) + self.detail(z))
        return DecoderOutput(sample=sample) if return_dict else (sample,)
