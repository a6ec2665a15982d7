"""Attention to one token, without what one token makes pointless.

A softmax over one key is 1, so attention to a single token gives `to_out(to_v(token))` at every position, whatever the
query: the exemplar enters each block as a constant vector. Queries, keys and the norm in front of them change nothing
and get no gradient (in the released U-Net 22 of its 860 million weights). `OneTokenAttention` computes the constant and
leaves them out.
"""

from __future__ import annotations

from typing import Any, cast

from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

DEAD = ("to_q", "to_k")  # parts of an attention to one token that change nothing


class OneTokenAttention(AttnProcessor2_0):  # type: ignore[misc]
    """An attention processor of diffusers: the constant where there is one token, ordinary attention otherwise."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        regions: Any = None,
        **options: Any,
    ) -> Tensor:
        """Attend.

        Args:
            attn: diffusers' `Attention`, which owns the weights.
            hidden_states: (B, L, C).
            encoder_hidden_states: the condition, (B, N, D); None for attention of the positions to each other.
            attention_mask: as in diffusers; with one token there is nothing to mask.
            temb: as in diffusers.
            regions: for self-attention, see `source_encoder`; diffusers hands it to all attentions alike.
            options: as in diffusers.

        Returns:
            (B, L, C), or (B, 1, C) for one token, which broadcasts over the positions.
        """
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1 or not is_plain(attn):
            return cast(
                Tensor,
                super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **options),
            )
        return cast(Tensor, attn.to_out[1](attn.to_out[0](attn.to_v(encoder_hidden_states))))


def is_plain(attn: Any) -> bool:
    """Whether an attention does nothing that depends on more than its values: Stable Diffusion's never does."""
    return (
        attn.norm_cross is None
        and attn.group_norm is None
        and attn.spatial_norm is None
        and not attn.residual_connection
        and attn.rescale_output_factor == 1
    )


def collapse_cross_attention(unet: UNet2DConditionModel) -> None:
    """Let a U-Net's cross-attention skip what one token makes pointless; equal to rounding, also in its gradients.

    Self-attention keeps its processors. With two or more tokens everything is as before.
    """
    processor = OneTokenAttention()
    for _, block in transformer_blocks(unet):
        if block.attn2 is not None:
            block.attn2.set_processor(processor)
        if block.only_cross_attention:
            block.attn1.set_processor(processor)


def dead_parameters(unet: UNet2DConditionModel) -> set[str]:
    """Names of the U-Net's parameters that change nothing while the condition is one token: they get no gradient."""
    dead = set()
    for name, block in transformer_blocks(unet):
        parts = [("attn2", "norm2")] if block.attn2 is not None else []
        parts += [("attn1", "norm1")] if block.only_cross_attention else []
        for attention, norm in parts:
            for part in (norm, *(f"{attention}.{part}" for part in DEAD)):
                dead |= {f"{name}.{part}.{key}" for key, _ in block.get_submodule(part).named_parameters()}
    return dead


def transformer_blocks(unet: UNet2DConditionModel) -> list[tuple[str, Any]]:
    """The blocks of a U-Net in which there is attention, with their names."""
    return [(name, block) for name, block in unet.named_modules() if isinstance(block, BasicTransformerBlock)]
