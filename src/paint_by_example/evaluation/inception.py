"""Inception v3 with the weights of the first FID, up to the last pool.

It is ours because the kept libraries that hold it need torchvision, which has no CPU build to match. It differs from
the Inception v3 of today (arXiv 1512.00567) in its average pools, which leave padding out, in one pool of the last
block, which takes the maximum, and in how pictures are resized: as TensorFlow 1 did. Names of tensors are the published
file's.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError

SIDE = 299  # pixels


class Convolution(nn.Module):
    """A convolution, normalised and rectified."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int | tuple[int, int], stride: int = 1, padding: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        around = (height // 2, width // 2) if padding else (0, 0)
        self.conv = nn.Conv2d(c_in, c_out, (height, width), stride, around, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches side by side: convolutions by name, chained as `chains` says, and a pool.

    Args:
        branches: of each convolution its name, channels in and out, kernel, and stride.
        chains: which convolutions follow each other in each branch; a tuple within is a fork whose ends are joined.
        pool: average (without the padding), maximum, or shrink (maximum, stride 2); the first two before `branch_pool`.
    """

    def __init__(
        self,
        branches: Mapping[str, tuple[int, int, int | tuple[int, int], int]],
        chains: tuple[tuple[str | tuple[str, str], ...], ...],
        pool: str,
    ) -> None:
        super().__init__()
        for name, (c_in, c_out, kernel, stride) in branches.items():
            self.add_module(name, Convolution(c_in, c_out, kernel, stride, padding=stride == 1))
        self.chains, self.pool = chains, pool

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H', W')."""
        parts = []
        for chain in self.chains:
            y = x
            for step in chain:
                names = (step,) if isinstance(step, str) else step
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            parts.append(y)
        if self.pool == "average":
            parts.append(self.get_submodule("branch_pool")(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)))
        elif self.pool == "maximum":
            parts.append(self.get_submodule("branch_pool")(F.max_pool2d(x, 3, 1, 1)))
        else:
            parts.append(F.max_pool2d(x, 3, 2))
        return torch.cat(parts, 1)


def block_a(c_in: int, pooled: int) -> Block:
    """At 35 x 35 (figure 5 of the paper)."""
    return Block(
        {
            "branch1x1": (c_in, 64, 1, 1),
            "branch5x5_1": (c_in, 48, 1, 1),
            "branch5x5_2": (48, 64, 5, 1),
            "branch3x3dbl_1": (c_in, 64, 1, 1),
            "branch3x3dbl_2": (64, 96, 3, 1),
            "branch3x3dbl_3": (96, 96, 3, 1),
            "branch_pool": (c_in, pooled, 1, 1),
        },
        (("branch1x1",), ("branch5x5_1", "branch5x5_2"), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
        "average",
    )


def block_b(c_in: int) -> Block:
    """From 35 x 35 to 17 x 17 (figure 10)."""
    return Block(
        {
            "branch3x3": (c_in, 384, 3, 2),
            "branch3x3dbl_1": (c_in, 64, 1, 1),
            "branch3x3dbl_2": (64, 96, 3, 1),
            "branch3x3dbl_3": (96, 96, 3, 2),
        },
        (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
        "shrink",
    )


def block_c(c: int) -> Block:
    """At 17 x 17, with kernels of 7 x 1 and 1 x 7 (figure 6)."""
    across, down = (1, 7), (7, 1)
    return Block(
        {
            "branch1x1": (768, 192, 1, 1),
            "branch7x7_1": (768, c, 1, 1),
            "branch7x7_2": (c, c, across, 1),
            "branch7x7_3": (c, 192, down, 1),
            "branch7x7dbl_1": (768, c, 1, 1),
            "branch7x7dbl_2": (c, c, down, 1),
            "branch7x7dbl_3": (c, c, across, 1),
            "branch7x7dbl_4": (c, c, down, 1),
            "branch7x7dbl_5": (c, 192, across, 1),
            "branch_pool": (768, 192, 1, 1),
        },
        (
            ("branch1x1",),
            ("branch7x7_1", "branch7x7_2", "branch7x7_3"),
            tuple(f"branch7x7dbl_{number}" for number in range(1, 6)),
        ),
        "average",
    )


def block_d() -> Block:
    """From 17 x 17 to 8 x 8."""
    return Block(
        {
            "branch3x3_1": (768, 192, 1, 1),
            "branch3x3_2": (192, 320, 3, 2),
            "branch7x7x3_1": (768, 192, 1, 1),
            "branch7x7x3_2": (192, 192, (1, 7), 1),
            "branch7x7x3_3": (192, 192, (7, 1), 1),
            "branch7x7x3_4": (192, 192, 3, 2),
        },
        (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{number}" for number in range(1, 5))),
        "shrink",
    )


def block_e(c_in: int, pool: str) -> Block:
    """At 8 x 8, with branches that fork (figure 7)."""
    across, down = (1, 3), (3, 1)
    return Block(
        {
            "branch1x1": (c_in, 320, 1, 1),
            "branch3x3_1": (c_in, 384, 1, 1),
            "branch3x3_2a": (384, 384, across, 1),
            "branch3x3_2b": (384, 384, down, 1),
            "branch3x3dbl_1": (c_in, 448, 1, 1),
            "branch3x3dbl_2": (448, 384, 3, 1),
            "branch3x3dbl_3a": (384, 384, across, 1),
            "branch3x3dbl_3b": (384, 384, down, 1),
            "branch_pool": (c_in, 192, 1, 1),
        },
        (
            ("branch1x1",),
            ("branch3x3_1", ("branch3x3_2a", "branch3x3_2b")),
            ("branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")),
        ),
        pool,
    )


class FidInception(nn.Module):
    """The whole network but its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, padding=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, padding=False)
        self.Mixed_5b = block_a(192, 32)
        self.Mixed_5c = block_a(256, 64)
        self.Mixed_5d = block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b = block_c(128)
        self.Mixed_6c = block_c(160)
        self.Mixed_6d = block_c(160)
        self.Mixed_6e = block_c(192)
        self.Mixed_7a = block_d()
        self.Mixed_7b = block_e(1280, "average")
        self.Mixed_7c = block_e(2048, "maximum")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, 299, 299) from `tensorflow_resize` to (B, 2048)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))

    def load_published(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of the published file; its classifier, ``fc``, is left out.

        Raises:
            ModelError: a tensor is missing, unknown or of another shape.
        """
        kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")}
        try:
            # Files of before PyTorch 0.4.1 do not count the batches that a norm has seen.
            counters = {name: t for name, t in self.state_dict().items() if name.endswith("num_batches_tracked")}
            self.load_state_dict(counters | kept)
        except RuntimeError as error:
            raise ModelError(f"these are not the weights of FID's Inception: {' '.join(str(error).split())}") from error


def tensorflow_resize(picture: NDArray[np.uint8]) -> Tensor:
    """Resize to 299 x 299 as TensorFlow 1 did: bilinear, corners to corners of cells, without averaging.

    Args:
        picture: (H, W, 3).

    Returns:
        (3, 299, 299) in [-1, 1).
    """
    x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()
    for axis in (1, 2):
        length = x.shape[axis]
        place = torch.arange(SIDE, dtype=torch.float32) * (length / SIDE)
        low = place.long()
        share = (place - low).view(-1, 1) if axis == 1 else place - low
        x0, x1 = x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1))
        x = x0 + (x1 - x0) * share
    return (x - 128) / 128
