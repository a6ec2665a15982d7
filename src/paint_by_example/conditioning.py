"""From an exemplar picture to the one vector the U-Net is told about it: the content bottleneck.

The encoders here and the embedded model's (`thumbnail`) share one interface, so that the pipeline and the trainer need
not know which one they hold:

    encoder.features(exemplar)   frozen and pretrained: (B, 3, S, S) -> (B, F), one vector for the whole picture
    encoder.decode(features)     learned: fully connected layers, (B, F) -> condition (B, 1, D); the embedded model's
                                 are in its U-Net
    encoder(exemplar)            the two in a row
    encoder.uncond_vector        learned: the null condition (1, 1, D), "no exemplar"

(Paint by Example, arXiv 2211.13227, section 3.2, "content bottleneck": only the class token, decoded by fully connected
layers, so that the model has to understand the exemplar and cannot copy it.)
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPPreTrainedModel, CLIPVisionConfig, CLIPVisionModel

from .efficientnet import EfficientNetLite


class ExemplarEncoder(Protocol):
    """What the pipeline and the trainer need of an encoder."""

    uncond_vector: nn.Parameter

    @property
    def feature_size(self) -> int:
        """F."""

    def features(self, pixel_values: Tensor) -> Tensor:
        """The frozen part: (B, 3, S, S) to (B, F)."""

    def decode(self, features: Tensor) -> Tensor:
        """The learned part: (B, F) to (B, 1, D)."""

    def __call__(self, pixel_values: Tensor) -> Tensor:
        """Both: (B, 3, S, S) to (B, 1, D)."""


# The released model's encoder


class VisionTower(nn.Module):
    """Holds CLIP under the name it has in the released checkpoint, whatever transformers calls its parts today."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.vision_model = CLIPVisionModel(config)


class Mapper(nn.Module):
    """Transformer blocks over one token. The softmax over one key is 1, so each is three fully connected layers."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        # the released configuration does not say; ours does where the depth does not follow from CLIP's
        blocks = getattr(config, "mapper_layers", None) or (config.num_hidden_layers + 1) // 5
        width = config.hidden_size
        self.blocks = nn.ModuleList(
            BasicTransformerBlock(width, 1, width, activation_fn="gelu", attention_bias=True) for _ in range(blocks)
        )

    def forward(self, token: Tensor) -> Tensor:
        """(B, 1, F) to the same."""
        for block in self.blocks:
            token = block(token)
        return token


class PaintByExampleImageEncoder(CLIPPreTrainedModel):  # type: ignore[misc]
    """CLIP's class token, five blocks of fully connected layers, a projection: the encoder of the released checkpoint.

    Tensor names and shapes are those of ``Fantasy-Studio/Paint-by-Example``, so its files load unchanged.

    Args:
        config: CLIP's vision configuration; ViT-L/14 in the released model.
        proj_size: width D of the condition, by default the configuration's ``projection_dim``; 768 in the released
            model.
    """

    config_class = CLIPVisionConfig

    def __init__(self, config: CLIPVisionConfig, proj_size: int | None = None) -> None:
        if proj_size is not None:
            config.projection_dim = proj_size  # the only place where a saved model keeps it
        super().__init__(config)
        self.proj_size: int = getattr(config, "projection_dim", None) or 768
        self.model = VisionTower(config)
        self.mapper = Mapper(config)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size)
        self.proj_out = nn.Linear(config.hidden_size, self.proj_size)
        self.uncond_vector = nn.Parameter(torch.randn((1, 1, self.proj_size)))
        self.post_init()

    @property
    def image_size(self) -> int:
        """Side of the exemplar the encoder takes, pixels."""
        return cast(int, self.config.image_size)

    @property
    def feature_size(self) -> int:
        """F, width of the class token."""
        return cast(int, self.config.hidden_size)

    def features(self, pixel_values: Tensor) -> Tensor:
        """CLIP's class token after its last norm, before any projection.

        Args:
            pixel_values: (B, 3, 224, 224), CLIP-normalised.

        Returns:
            (B, 1024).
        """
        return cast(Tensor, self.model.vision_model(pixel_values=pixel_values).pooler_output)

    def decode(self, features: Tensor) -> Tensor:
        """Decode the class token by fully connected layers.

        Args:
            features: (B, 1024).

        Returns:
            The condition, (B, 1, 768).
        """
        return cast(Tensor, self.proj_out(self.final_layer_norm(self.mapper(features[:, None]))))

    def forward(self, pixel_values: Tensor, return_uncond_vector: bool = False) -> Any:
        """Encode exemplars.

        Args:
            pixel_values: (B, 3, 224, 224), CLIP-normalised.
            return_uncond_vector: also return the null condition, (1, 1, 768).

        Returns:
            The condition, (B, 1, 768).
        """
        condition = self.decode(self.features(pixel_values))
        return (condition, self.uncond_vector) if return_uncond_vector else condition


# The ablation's encoder, in small

# Which stage's features enter the one vector, averaged over how coarse a grid: texture and colour, parts, the whole
POOLED: tuple[tuple[int, int], ...] = ((1, 4), (2, 4), (4, 2), (6, 1))  # (stage, grid)
POOLED_CHANNELS = (24, 40, 112, 320)


class PooledImageEncoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """EfficientNet-Lite0 in CLIP's place: pooled features, their principal components, fully connected layers.

    Args:
        image_size: side of the exemplar, pixels.
        feature_size: F, principal components kept of the pooled features.
        width: of the fully connected layers.
        depth: how many residual pairs of them.
        proj_size: width D of the condition.
        grid: 0 for one vector, the content bottleneck; n for n x n vectors instead, each of what its cell of the
            exemplar shows, which is the naive way that the bottleneck is measured against (see `ablation`).
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        image_size: int = 128,
        feature_size: int = 512,
        width: int = 512,
        depth: int = 2,
        proj_size: int = 512,
        grid: int = 0,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.backbone = EfficientNetLite(0)
        self.components = nn.Linear(sum(self.pooled_sizes), feature_size)
        self.backbone.requires_grad_(False)
        self.components.requires_grad_(False)
        self.proj_in = nn.Linear(feature_size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(depth)
        )
        self.final_layer_norm = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, proj_size)
        self.uncond_vector = nn.Parameter(torch.randn((1, 1, proj_size)))
        if grid:
            self.place = nn.Parameter(torch.zeros(grid**2, width))

    @property
    def feature_size(self) -> int:
        """F."""
        return int(self.config.feature_size)

    @property
    def tokens(self) -> int:
        """N, vectors of a condition."""
        return int(self.config.grid) ** 2 or 1

    @property
    def pooled_sizes(self) -> list[int]:
        """How many pooled features each stage has, of one vector."""
        cells = [1 if self.config.grid else grid**2 for _, grid in POOLED]
        return [channels * count for channels, count in zip(POOLED_CHANNELS, cells, strict=True)]

    def pool(self, pixel_values: Tensor) -> Tensor:
        """Features of the backbone's stages, each averaged over its grid: (B, 3, S, S) to (B, 1792), or (B, N, 496)."""
        maps = self.backbone(pixel_values)
        if side := self.config.grid:
            averaged = torch.cat([F.adaptive_avg_pool2d(maps[stage], side) for stage, _ in POOLED], dim=1)
            return averaged.flatten(2).mT
        return torch.cat([F.adaptive_avg_pool2d(maps[stage], grid).flatten(1) for stage, grid in POOLED], dim=1)

    def features(self, pixel_values: Tensor) -> Tensor:
        """Principal components of the pooled features.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.

        Returns:
            (B, F), or (B, N, F) with a grid.
        """
        return cast(Tensor, self.components(self.pool(pixel_values)))

    def decode(self, features: Tensor) -> Tensor:
        """Decode the features by fully connected layers.

        Args:
            features: (B, F), or (B, N, F) with a grid.

        Returns:
            The condition, (B, 1, D), or (B, N, D).
        """
        x = self.proj_in(features)
        if self.config.grid:
            x = x + self.place
        for block in self.blocks:
            x = x + block(x)
        tokens = cast(Tensor, self.proj_out(self.final_layer_norm(x)))
        return tokens if self.config.grid else tokens[:, None]

    def forward(self, pixel_values: Tensor, return_uncond_vector: bool = False) -> Any:
        """Encode exemplars.

        Args:
            pixel_values: (B, 3, S, S), normalised as EfficientNet-Lite wants it.
            return_uncond_vector: also return the null condition, (1, 1, D).

        Returns:
            The condition, (B, 1, D).
        """
        condition = self.decode(self.features(pixel_values))
        return (condition, self.uncond_vector) if return_uncond_vector else condition

    @torch.no_grad()
    def fit(self, pooled: Tensor) -> Tensor:
        """Set the principal components from pooled features of training exemplars.

        Each stage counts alike, and components are scaled by the root of their deviation: fine differences between
        exemplars reach the learned layers without the noise of the last components being blown up to full size.

        Args:
            pooled: from `pool`.

        Returns:
            The share of the variance that each component holds, (F,), largest first.
        """
        pooled = pooled.double().flatten(0, -2)
        mean = pooled.mean(0)
        variances = pooled.var(0)
        stage_scale = torch.cat([part.sum().rsqrt().expand(len(part)) for part in variances.split(self.pooled_sizes)])
        covariance = torch.cov(((pooled - mean) * stage_scale).T)
        values, vectors = torch.linalg.eigh(covariance)
        kept = self.components.out_features
        values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
        scale = values.clamp_min(1e-12) ** -0.25
        scale = scale / (scale**2 * values).mean().sqrt()
        weight = (vectors * scale).T * stage_scale
        self.components.weight.copy_(weight)
        self.components.bias.copy_(-(weight @ mean))
        return cast(Tensor, values / torch.trace(covariance))
