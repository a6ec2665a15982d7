"""LPIPS (arXiv 1801.03924) on AlexNet: weighted distance of its features, averaged over the picture.

The weights of the distance come with torchmetrics. AlexNet's are a file of their own, which torchvision publishes; the
network is five convolutions, and torchvision itself, which has no CPU build to match, is not needed for them.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ModelError

ALEXNET_FILE = "alexnet-owt-7be5be79.pth"
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
TAPS = (1, 4, 7, 9, 11)  # layers whose output is compared: after each rectifier


class Lpips(nn.Module):
    """Distance of pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, 1, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, 1, 1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, 1, 1),
            nn.ReLU(),
        )
        self.weights = nn.ParameterList([torch.zeros(1, c, 1, 1) for c in (64, 192, 384, 256, 256)])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1], H and W at least 31, to their distances (B,) (equation 1)."""
        shift, scale = (x.new_tensor(values)[:, None, None] for x, values in ((a, SHIFT), (a, SCALE)))
        x, y = (a - shift) / scale, (b - shift) / scale
        total, tap = a.new_zeros(len(a)), 0
        for number, layer in enumerate(self.features):
            x, y = layer(x), layer(y)
            if number in TAPS:
                difference = (unit(x) - unit(y)) ** 2
                total = total + (difference * self.weights[tap]).sum(1).mean((1, 2))
                tap += 1
        return total


def unit(x: Tensor) -> Tensor:
    """(B, C, H, W) with vectors of length 1 along the channels."""
    length: Tensor = x.norm(dim=1, keepdim=True)
    return x / (length + 1e-8)


def load_lpips(weights: str | None = None) -> Lpips:
    """LPIPS with AlexNet's weights from a file.

    Args:
        weights: the file; by default where torch.hub keeps what it downloads.

    Raises:
        ModelError: it, or torchmetrics, is not there, or it holds something else.
    """
    alexnet = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET_FILE
    if not alexnet.is_file():
        raise ModelError(f"lpips cannot be had: there is no file {alexnet} with AlexNet's weights")
    package = util.find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise ModelError("lpips cannot be had: the package torchmetrics, which holds its weights, is not installed")
    linear = Path(package.origin).parent / "functional" / "image" / "lpips_models" / "alex.pth"
    model = Lpips()
    try:
        layers = torch.load(alexnet, map_location="cpu", weights_only=True)
        own = {name: tensor for name, tensor in layers.items() if name.startswith("features.")}
        distance = torch.load(linear, map_location="cpu", weights_only=True)
        own |= {f"weights.{number}": distance[f"lin{number}.model.1.weight"] for number in range(len(TAPS))}
        model.load_state_dict(own)
    except Exception as error:  # a file that is none of these raises whatever it likes
        reason = " ".join(str(error).split())
        raise ModelError(f"lpips cannot be had: {alexnet} holds no AlexNet ({reason})") from error
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def lpips_outside(model: Lpips, source: NDArray[np.uint8], result: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Distance of source and result, both blanked inside the mask.

    Args:
        model: from `load_lpips`.
        source: (H, W, 3).
        result: (H, W, 3).
        mask: (H, W), True = repaint.
    """
    pair = []
    for picture in (source, result):
        kept = np.where(mask[..., None], np.uint8(0), picture)
        pair.append(torch.from_numpy(kept).permute(2, 0, 1)[None].float() / 127.5 - 1)
    return float(model(*pair))
