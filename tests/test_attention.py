"""Attention to one token: equal to ordinary attention, in values and gradients, and nothing else is touched."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0

from paint_by_example.attention import OneTokenAttention, collapse_cross_attention, dead_parameters


def unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=9,
        out_channels=4,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        only_cross_attention=(True, False),
        cross_attention_dim=12,
        attention_head_dim=4,
    ).double()


def inputs(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(3, 9, 8, 8, generator=generator, dtype=torch.float64),
        torch.randn(3, tokens, 12, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("tokens", [1, 2])
def test_the_output_is_that_of_ordinary_attention(tokens: int) -> None:
    plain, collapsed = unet(), unet()
    collapse_cross_attention(collapsed)
    x, condition = inputs(tokens)
    expected, found = (network(x, 500, condition).sample for network in (plain, collapsed))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert expected.std() > 0.01


def test_the_gradients_are_those_of_ordinary_attention_and_the_dead_ones_are_zero() -> None:
    plain, collapsed = unet(), unet()
    collapse_cross_attention(collapsed)
    for network in (plain, collapsed):
        x, condition = inputs(1)
        network(x, 500, condition).sample.square().sum().backward()
    dead = dead_parameters(plain)
    found = dict(collapsed.named_parameters())
    for name, parameter in plain.named_parameters():
        assert parameter.grad is not None
        if name in dead:
            assert found[name].grad is None
            # the softmax's gradient is zero but for rounding
            assert parameter.grad.abs().max() < 1e-12 * max(p.grad.abs().max() for p in plain.parameters())
        else:
            torch.testing.assert_close(found[name].grad, parameter.grad, rtol=1e-9, atol=1e-12)


def test_dead_are_the_queries_keys_and_norms_of_attention_to_the_condition() -> None:
    dead = dead_parameters(unet())
    block = "mid_block.attentions.0.transformer_blocks.0"
    assert {name for name in dead if name.startswith(block)} == {
        f"{block}.{part}" for part in ("norm2.weight", "norm2.bias", "attn2.to_q.weight", "attn2.to_k.weight")
    }
    first = "down_blocks.0.attentions.0.transformer_blocks.0"  # attends to nothing but the condition
    assert {f"{first}.{part}" for part in ("norm1.weight", "attn1.to_q.weight", "attn1.to_k.weight")} <= dead


def test_only_attention_to_the_condition_is_replaced() -> None:
    network = unet()
    collapse_cross_attention(network)
    kinds = {name: type(processor) for name, processor in network.attn_processors.items()}
    replaced = {name for name, kind in kinds.items() if kind is OneTokenAttention}
    assert replaced == {
        name
        for name in kinds
        if ".attn2." in name or ("_blocks.0.attentions" in name and "down" in name) or name.startswith("up_blocks.1")
    }
    assert kinds["mid_block.attentions.0.transformer_blocks.0.attn1.processor"] is AttnProcessor2_0
