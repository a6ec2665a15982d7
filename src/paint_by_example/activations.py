"""What a U-Net keeps of its forward pass for the gradient: less than it could, where computing it again costs little.

A convolution's gradient needs its input, which is a normalised map behind SiLU; both are a fraction of the work of the
convolution and are computed again from what was there before them. Likewise what is within a feed-forward layer.
Nothing is computed otherwise, so loss and gradient are the same bit for bit (Training Deep Nets with Sublinear Memory
Cost, arXiv 1604.06174, section 3; whole blocks are what ``--gradient-checkpointing`` is for).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class LeanResnetBlock(ResnetBlock2D):  # type: ignore[misc]
    """A residual block of diffusers that keeps the inputs of its normalisations, and nothing else of their size."""

    def forward(self, input_tensor: Tensor, temb: Tensor) -> Tensor:
        """Compute the block.

        Args:
            input_tensor: (B, C, h, w).
            temb: embedding of the time step, (B, D).

        Returns:
            (B, C', h, w).
        """
        hidden = computed_again(self.first, input_tensor)
        hidden = hidden + self.time_emb_proj(self.nonlinearity(temb))[:, :, None, None]
        hidden = computed_again(self.second, hidden)
        return hidden + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))

    def first(self, hidden: Tensor) -> Tensor:
        """The half before the time step, (B, C, h, w) to (B, C', h, w)."""
        return cast(Tensor, self.conv1(self.nonlinearity(self.norm1(hidden))))

    def second(self, hidden: Tensor) -> Tensor:
        """The half behind it, (B, C', h, w)."""
        return cast(Tensor, self.conv2(self.nonlinearity(self.norm2(hidden))))


class LeanFeedForward(FeedForward):  # type: ignore[misc]
    """A feed-forward layer of diffusers that keeps its input alone."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Compute the layer, (B, L, C)."""
        return computed_again(super().forward, hidden_states)


def computed_again(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Apply a function without drawing, and keep of it for the gradient what it was given.

    A compiled network decides about that by itself.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(value)
    result: Any = checkpoint(function, value, use_reentrant=False, preserve_rng_state=False)
    return cast(Tensor, result)


def keep_less(network: nn.Module) -> None:
    """Let residual blocks and feed-forward layers keep less, where they are as Stable Diffusion has them."""
    for part in network.modules():
        if any(isinstance(inner, nn.Dropout) and inner.p for inner in part.modules()):
            continue
        if type(part) is ResnetBlock2D and is_plain(part):
            part.__class__ = LeanResnetBlock
        elif type(part) is FeedForward:
            part.__class__ = LeanFeedForward


def is_plain(block: Any) -> bool:
    """Whether a residual block neither changes the size nor takes the time step otherwise than Stable Diffusion's."""
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_emb_proj is not None
        and block.time_embedding_norm == "default"
        and not block.skip_time_act
        and block.output_scale_factor == 1
    )
