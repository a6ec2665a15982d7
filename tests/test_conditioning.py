"""The encoders: the released one by its tensors' names and what one token does to attention, the embedded one's fit."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig

from paint_by_example import PaintByExampleImageEncoder, PooledImageEncoder, conditioning
from paint_by_example.conditioning import ExemplarEncoder
from tests import released


@pytest.fixture(scope="module")
def clip() -> PaintByExampleImageEncoder:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=9,  # two blocks in the mapper
        num_attention_heads=2,
        image_size=32,
        patch_size=16,
    )
    encoder = PaintByExampleImageEncoder(config, proj_size=12).eval()
    with torch.no_grad():  # weights large enough that every layer tells, and norms that are not the identity
        for parameter in encoder.parameters():
            parameter.normal_(std=0.3)
    return encoder  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def embedded() -> PooledImageEncoder:
    torch.manual_seed(0)
    encoder: PooledImageEncoder = PooledImageEncoder(image_size=64, feature_size=8, width=16, depth=2, proj_size=12)
    return encoder


# The released encoder


def test_names_and_shapes_are_those_of_the_released_checkpoint() -> None:
    with torch.device("meta"):
        encoder = PaintByExampleImageEncoder(CLIPVisionConfig(**released.IMAGE_ENCODER))
    start = "image_encoder/"
    expected = {
        name.removeprefix(start): shape
        for name, shape in released.tensors("diffusers").items()
        if name.startswith(start)
    }
    assert len(expected) == 476
    assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == expected
    assert encoder.image_size == 224


def test_features_are_the_class_token_after_its_norm(clip: PaintByExampleImageEncoder) -> None:
    x = torch.randn(3, 3, 32, 32)
    vision = clip.model.vision_model
    tokens = vision(pixel_values=x).last_hidden_state
    assert tokens.shape == (3, 5, 16)  # the class token, then 2 x 2 patches
    state = clip.state_dict()
    weight, bias = (state[f"model.vision_model.post_layernorm.{name}"] for name in ("weight", "bias"))
    assert torch.allclose(clip.features(x), F.layer_norm(tokens[:, 0], (16,), weight, bias), atol=1e-5)


def test_attention_over_one_token_is_three_fully_connected_layers(clip: PaintByExampleImageEncoder) -> None:
    state = clip.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"])

    features = torch.randn(4, 16)
    x = features
    for block in ("mapper.blocks.0", "mapper.blocks.1"):
        x = x + linear(linear(norm(x, f"{block}.norm1"), f"{block}.attn1.to_v"), f"{block}.attn1.to_out.0")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm3"), f"{block}.ff.net.0.proj")), f"{block}.ff.net.2")
    assert torch.allclose(clip.mapper(features[:, None])[:, 0], x, atol=1e-4)
    expected = linear(norm(x, "final_layer_norm"), "proj_out")
    condition = clip.decode(features)
    assert condition.shape == (4, 1, 12)
    assert torch.allclose(condition[:, 0], expected, atol=1e-4)


def test_queries_and_keys_learn_nothing_and_all_else_does(clip: PaintByExampleImageEncoder) -> None:
    clip.zero_grad()
    clip.decode(torch.randn(4, 16)).square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in clip.mapper.named_parameters()}
    largest = {name: gradient.abs().max() for name, gradient in gradients.items() if gradient is not None}
    assert largest.keys() == gradients.keys()
    idle = {name for name, gradient in largest.items() if gradient < 1e-5 * max(largest.values())}
    assert idle == {name for name in largest if re.search(r"to_[qk]\.", name)}


def test_the_null_condition_comes_on_request(clip: PaintByExampleImageEncoder) -> None:
    x = torch.randn(2, 3, 32, 32)
    condition, null_condition = clip(x, return_uncond_vector=True)
    assert null_condition is clip.uncond_vector
    assert null_condition.shape == (1, 1, 12)
    assert torch.equal(condition, clip(x))
    assert torch.equal(condition, clip.decode(clip.features(x)))


def test_a_saved_encoder_has_its_own_width(clip: PaintByExampleImageEncoder, tmp_path: Path) -> None:
    clip.save_pretrained(tmp_path)
    again = PaintByExampleImageEncoder.from_pretrained(tmp_path)
    assert again.proj_size == 12
    state = again.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.state_dict().items())


# The embedded encoder


def test_both_are_what_the_pipeline_takes(clip: PaintByExampleImageEncoder, embedded: PooledImageEncoder) -> None:
    encoders: tuple[ExemplarEncoder, ...] = (clip, embedded)
    for encoder, size in zip(encoders, (32, 64), strict=True):
        x = torch.randn(2, 3, size, size)
        assert encoder(x).shape == (2, 1, 12)
        assert encoder.uncond_vector.shape == (1, 1, 12)
        assert torch.equal(encoder(x), encoder.decode(encoder.features(x)))


def test_features_are_frozen_and_the_rest_learns(embedded: PooledImageEncoder) -> None:
    learning = {name.split(".")[0] for name, parameter in embedded.named_parameters() if parameter.requires_grad}
    assert learning == {"proj_in", "blocks", "final_layer_norm", "proj_out", "uncond_vector"}
    frozen = {name.split(".")[0] for name, parameter in embedded.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone", "components"}
    features = embedded.features(torch.randn(2, 3, 64, 64))
    assert features.shape == (2, 8)
    assert not features.requires_grad
    condition, null_condition = embedded(torch.randn(2, 3, 64, 64), return_uncond_vector=True)
    assert condition.requires_grad
    assert null_condition is embedded.uncond_vector


def test_pooled_features_keep_where_things_are(embedded: PooledImageEncoder) -> None:
    torch.manual_seed(0)
    for module in embedded.backbone.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    x = torch.zeros(1, 3, 64, 64)
    x[..., :16, :16] = 1
    pooled = embedded.pool(torch.cat([x, x.flip(-1)]))
    assert pooled.shape == (2, 1792)
    # the first part is 24 channels on a 4 x 4 grid: the lit corner changes the left column, its mirror image the right
    grids = pooled[:, : 24 * 16].unflatten(1, (24, 4, 4))
    left, right = ((grid - grid[:, 3:, 1:2]).abs().sum(0)[0] for grid in grids)
    assert left[0] > left[3]
    assert right[3] > right[0]


def test_fit_gives_uncorrelated_components_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 8 * 4 + 12
    for name, value in {"POOLED": ((1, 2), (6, 1)), "POOLED_CHANNELS": (8, 12)}.items():
        monkeypatch.setattr(conditioning, name, value)  # 1792 would take its time
    torch.manual_seed(0)
    encoder = PooledImageEncoder(image_size=32, feature_size=6, width=8, depth=1, proj_size=8)
    loadings = torch.randn(10, size) * torch.arange(10, 0, -1)[:, None]
    loadings[:, 32:] *= 100  # stages count alike, whatever their scale
    pooled = torch.randn(200, 10) @ loadings + 5
    shares = encoder.fit(pooled)
    assert shares.shape == (6,)
    assert (shares.diff() < 0).all()
    assert 0.5 < shares.sum() < 1
    components = encoder.components(pooled).double()
    covariance = torch.cov(components.T)
    variances = covariance.diagonal()
    assert components.mean(0).abs().max() < 1e-3
    assert (covariance - variances.diag()).abs().max() < 1e-3 * variances.max()
    assert variances.mean() == pytest.approx(1, abs=1e-3)
    # scaled by the root of their deviations: variance then goes as the deviation
    expected = shares.sqrt() / shares.sqrt().mean()
    assert torch.allclose(variances, expected, rtol=1e-2)
    stages = encoder.components.weight.detach().split((32, 12), dim=1)
    told = [(stage @ part.T).var(1) for stage, part in zip(stages, (pooled - 5).split((32, 12), dim=1), strict=True)]
    assert 0.2 < told[0].sum() / told[1].sum() < 5
