"""What is computed again instead of kept: the same result, bit for bit, of less memory."""

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D

from paint_by_example.activations import LeanFeedForward, LeanResnetBlock, keep_less
from paint_by_example.plan import Alive
from tests import tiny


@pytest.fixture
def unets() -> tuple[UNet2DConditionModel, UNet2DConditionModel]:
    """The same U-Net twice, as diffusers has it and with less kept."""
    torch.manual_seed(0)
    unet = tiny.unet(4, 16, 32).train()
    lean = copy.deepcopy(unet)
    keep_less(lean)
    assert any(isinstance(part, LeanResnetBlock) for part in lean.modules())
    assert any(isinstance(part, LeanFeedForward) for part in lean.modules())
    return unet, lean


def inputs(unet: UNet2DConditionModel, count: int = 2) -> dict[str, Any]:
    torch.manual_seed(1)
    return {
        "sample": torch.randn(count, unet.config.in_channels, 16, 16),
        "timestep": torch.arange(count) * 100,
        "encoder_hidden_states": torch.randn(count, 1, 32),
    }


@pytest.mark.parametrize("reduced", [False, True])
def test_result_and_gradients_are_those_of_all_that_is_kept(
    unets: tuple[UNet2DConditionModel, UNet2DConditionModel], reduced: bool
) -> None:
    results = []
    for unet in unets:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            result = unet(**inputs(unet)).sample
        result.float().square().mean().backward()
        results.append([result.detach(), *(p.grad for p in unet.parameters() if p.grad is not None)])
    assert len(results[0]) == len(results[1]) > 10
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_less_is_kept(unets: tuple[UNet2DConditionModel, UNet2DConditionModel]) -> None:
    kept = []
    for unet in unets:
        given = inputs(unet, 32)
        with Alive([*unet.parameters(), *given.values()]) as alive:
            loss = unet(**given).sample.square().mean()
            kept.append(alive.now)
        loss.backward()
    assert kept[1] < 0.7 * kept[0]


def test_blocks_that_are_otherwise_stay_as_they_are() -> None:
    for given in ({"dropout": 0.1}, {"up": True}, {"time_embedding_norm": "scale_shift"}, {"output_scale_factor": 2.0}):
        block = ResnetBlock2D(in_channels=32, temb_channels=32, **given)
        keep_less(block)
        assert type(block) is ResnetBlock2D
