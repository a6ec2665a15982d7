"""What the U-Net is told of the source beyond the paper: nothing at first, and then only where it should be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paint_by_example import PaintByExamplePipeline, UserError
from paint_by_example.attention import collapse_cross_attention
from paint_by_example.errors import ModelError
from paint_by_example.layout import LayoutUNet
from paint_by_example.source_encoder import Region, RegionAttention, SourceEncoder, SourceHints, style_of
from tests import tiny

FACTOR = 4


def small_layout_unet() -> LayoutUNet:
    unet: LayoutUNet = LayoutUNet(
        sample_size=8,
        in_channels=13,
        out_channels=6,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    return unet


def of_stable_diffusion() -> Any:
    unet = tiny.sd_unet()
    collapse_cross_attention(unet)
    return unet


UNETS = {
    "embedded": small_layout_unet,
    "without a middle": lambda: tiny.unet(latent_channels=6, sample_size=8, condition_size=16),
    "stable diffusion": of_stable_diffusion,
}


class Setting:
    """A U-Net, its source encoder, and something to ask it."""

    def __init__(self, kind: str, parts: tuple[str, ...] = ("structure", "context")) -> None:
        torch.manual_seed(0)
        self.unet = UNETS[kind]().eval()
        self.encoder = SourceEncoder.for_unet(self.unet, FACTOR, parts, width=16).eval()
        self.encoder.attach(self.unet)
        channels = (self.unet.config.in_channels - 1) // 2
        self.mask = torch.zeros(1, 1, 8, 8)
        self.mask[..., 2:6, 2:6] = 1
        self.z_masked = torch.randn(1, channels, 8, 8)
        self.x = torch.cat([torch.randn(1, channels, 8, 8), self.z_masked, 1 - self.mask], dim=1)
        self.condition = torch.randn(1, 1, self.unet.config.cross_attention_dim)
        self.map = torch.rand(1, 1, 8 * FACTOR, 8 * FACTOR)

    @torch.no_grad()
    def ask(self, hints: SourceHints | None = None, repeats: int = 1) -> Tensor:
        options = hints.options((True,) * repeats) if hints else {}
        x, condition = self.x.repeat(repeats, 1, 1, 1), self.condition.repeat(repeats, 1, 1)
        prediction: Tensor = self.unet(x, torch.tensor(500), condition, **options).sample
        return prediction

    @torch.no_grad()
    def hints(self, **given: Any) -> SourceHints:
        hints: SourceHints = self.encoder(self.z_masked, self.mask, **given)
        return hints

    @torch.no_grad()
    def teach(self) -> None:
        """Weights as after some training: none that are zeros."""
        for name, parameter in self.encoder.named_parameters():
            if name.endswith("gate") or not parameter.any():
                parameter.add_(0.2 * torch.randn_like(parameter) + 0.1)


@pytest.mark.parametrize("kind", UNETS)
def test_at_first_the_u_net_is_what_it_was(kind: str) -> None:
    setting = Setting(kind)
    plain = setting.ask()
    hints = setting.hints(structure=setting.map, context=True)
    assert hints.skips
    assert hints.regions
    assert torch.equal(setting.ask(hints), plain)


@pytest.mark.parametrize("kind", UNETS)
def test_each_part_says_something_once_it_has_learned(kind: str) -> None:
    setting = Setting(kind)
    plain = setting.ask()
    setting.teach()
    structure, context = setting.hints(structure=setting.map), setting.hints(context=True)
    assert not torch.allclose(setting.ask(structure), plain, atol=1e-3)
    assert not torch.allclose(setting.ask(context), plain, atol=1e-4)
    assert torch.equal(setting.ask(), plain)  # and without them nothing has changed
    assert torch.equal(setting.ask(setting.hints()), plain)


def test_of_a_batch_a_part_may_be_told_nothing_of_the_structure() -> None:
    setting = Setting("embedded")
    setting.teach()
    hints = setting.hints(structure=setting.map)
    x, condition = setting.x.repeat(2, 1, 1, 1), setting.condition.repeat(2, 1, 1)
    with torch.no_grad():
        both = setting.unet(x, torch.tensor(500), condition, **hints.options((False, True))).sample
    assert torch.allclose(both[:1], setting.ask(), atol=1e-5)
    assert torch.allclose(both[1:], setting.ask(hints), atol=1e-5)
    assert hints.options((False,)) == {}


def test_results_of_one_source_are_told_the_same() -> None:
    setting = Setting("embedded")
    setting.teach()
    hints = setting.hints(structure=setting.map, context=True)
    one, two = setting.ask(hints), setting.ask(hints, repeats=2)
    assert torch.allclose(two, one.repeat(2, 1, 1, 1), atol=1e-5)


def test_edited_places_look_at_kept_ones_and_nobody_else_looks() -> None:
    torch.manual_seed(0)
    attention = RegionAttention(8, 16)
    with torch.no_grad():
        attention.gate.fill_(1.0)
    edited = torch.tensor([[0.0], [1.0], [1.0], [0.0]])[None]
    visible = torch.cat([edited[..., 0] == 0, torch.ones(1, 1, dtype=torch.bool)], dim=1)
    x, tokens = torch.randn(1, 4, 8), torch.randn(1, 5, 16)
    seen = attention(x, Region(tokens, visible, edited))
    assert not seen[0, [0, 3]].any()
    assert seen[0, [1, 2]].abs().min() > 0
    hidden, shown, style = tokens.clone(), tokens.clone(), tokens.clone()
    hidden[0, 1] += 1  # of an edited place
    shown[0, 3] += 1
    style[0, 4] += 1
    assert torch.equal(attention(x, Region(hidden, visible, edited)), seen)
    assert not torch.allclose(attention(x, Region(shown, visible, edited)), seen)
    assert not torch.allclose(attention(x, Region(style, visible, edited)), seen)


def test_a_hole_that_leaves_nothing_can_still_see_the_style() -> None:
    setting = Setting("embedded", ("context",))
    setting.teach()
    setting.mask.fill_(1)
    assert torch.isfinite(setting.ask(setting.hints(context=True))).all()


def test_the_style_is_of_what_is_kept() -> None:
    torch.manual_seed(0)
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, 2:6, 2:6] = 1
    mask[1] = 1
    z = torch.randn(2, 4, 8, 8)
    other = torch.where(mask > 0, torch.randn_like(z), z)
    style = style_of(z, mask)
    assert torch.equal(style[:1], style_of(other, mask)[:1])
    kept = z[0][:, mask[0, 0] == 0]
    torch.testing.assert_close(style[0], torch.cat([kept.mean(1), kept.std(1, correction=0)]), atol=1e-5, rtol=1e-4)
    assert not style[1].any()


def test_regions_come_at_every_resolution_with_the_mask_of_it() -> None:
    regions = Setting("embedded").hints(context=True).regions
    assert sorted(regions) == [4, 16, 64]
    assert regions[64].edited.sum() == 16
    assert regions[16].edited.sum() == 4
    assert regions[4].edited.sum() == 0  # a quarter of each cell


def test_the_u_net_owns_none_of_it() -> None:
    setting = Setting("embedded")
    names = set(setting.unet.state_dict())
    assert names == set(small_layout_unet().state_dict())
    setting.encoder.attach(setting.unet)  # again, and not on top of itself
    processor: Any = setting.unet.attn_processors["mid_block.attentions.0.transformer_blocks.0.attn1.processor"]
    assert type(processor.plain).__name__ == "AttnProcessor2_0"


def test_it_is_kept_as_a_part_of_its_own(tmp_path: Any) -> None:
    setting = Setting("embedded")
    setting.teach()
    expected = setting.ask(setting.hints(structure=setting.map, context=True))
    setting.encoder.save_pretrained(tmp_path)
    setting.encoder = SourceEncoder.from_pretrained(tmp_path).eval()
    setting.encoder.attach(setting.unet)
    assert torch.equal(setting.ask(setting.hints(structure=setting.map, context=True)), expected)


def test_what_it_has_not_learned_and_what_it_was_not_made_for_is_said() -> None:
    setting = Setting("embedded", ("structure",))
    assert torch.equal(setting.ask(setting.hints(structure=setting.map)), setting.ask())
    with pytest.raises(ModelError, match="has learned no context"):
        setting.hints(context=True)
    with pytest.raises(ModelError, match="another U-Net"):
        Setting("embedded").encoder.attach(UNETS["stable diffusion"]())


# Whole edits


def learned(parts: tuple[str, ...]) -> PaintByExamplePipeline:
    pipeline = tiny.embedded_pipeline()
    pipeline.add_source_encoder(parts)
    with torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in pipeline.source_encoder.named_parameters():
            if name.endswith("gate") or not parameter.any():
                parameter.add_(0.3 * torch.randn_like(parameter) + 0.2)
    return pipeline


def test_an_edit_is_told_what_it_asks_for_and_can_be_made_again() -> None:
    pipeline, source = learned(("structure", "context")), np.asarray(tiny.picture(48, 40))
    given: dict[str, Any] = {"exemplar": tiny.picture(20, 20), "box": (8, 8, 32, 32), "steps": 2}

    def edit(**more: Any) -> np.ndarray:
        return np.asarray(pipeline.edit(source, **given, **more).images[0])

    plain = edit()
    told = {name: edit(**{name: value}) for name, value in (("structure", "edges"), ("context", True))}
    for name, image in told.items():
        assert not np.array_equal(image, plain), name
        assert np.array_equal(image[:8], source[:8])
    assert not np.array_equal(told["structure"], told["context"])
    assert np.array_equal(edit(structure="edges", structure_scale=0.0), plain)
    both = pipeline.edit(source, **given, structure="edges", structure_scale=1.5, context=True, backend="openvino")
    settings = both.records[0].settings()
    assert (settings["context"], settings["backend"]) == (True, "torch")
    again = pipeline.edit(source, exemplar=given["exemplar"], box=given["box"], **settings)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(both.images[0]))


def test_an_edit_is_refused_what_the_model_has_not_learned() -> None:
    given: dict[str, Any] = {"exemplar": tiny.picture(20, 20), "box": (8, 8, 32, 32), "steps": 2}
    with pytest.raises(ModelError, match="has learned no context"):
        learned(("structure",)).edit(tiny.picture(48, 40), **given, context=True)
    with pytest.raises(ModelError, match="neither structure nor context"):
        tiny.embedded_pipeline().edit(tiny.picture(48, 40), **given, context=True)
    with pytest.raises(UserError, match="takes no structure"):
        learned(("context",)).edit(tiny.picture(48, 40), **given, structure="edges")
