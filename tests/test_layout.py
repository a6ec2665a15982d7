"""The embedded model's U-Net: the map of the exemplar in the hole, and the one token it takes."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from paint_by_example import PatchAutoencoder
from paint_by_example.alignment import Lines
from paint_by_example.embedded import build_scheduler
from paint_by_example.errors import ModelError
from paint_by_example.images import image_tensor
from paint_by_example.layout import (
    CELL,
    COARSE,
    LAYOUT_SIZE,
    LIGHT,
    PARTS,
    TEMPERATURE,
    LayoutUNet,
    calm_beside,
    continue_beside,
    draw_to_layout,
    lay_into_hole,
    own_guidance,
)
from paint_by_example.sampling import predict_clean

SHAPE = {
    "sample_size": 8,
    "in_channels": 9,
    "out_channels": 4,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 16,
    "attention_head_dim": 4,
}


def unet() -> LayoutUNet:
    torch.manual_seed(0)
    network: LayoutUNet = LayoutUNet(**SHAPE)
    vae = PatchAutoencoder(CELL, SHAPE["out_channels"], decoder_channels=8, decoder_blocks=0)
    vae.fit(torch.rand(256, 3, CELL, CELL) * 2 - 1)
    network.take_latents_of(vae)
    network.eval()
    return network


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(count, 9, 8, 8, generator=generator)
    sample[:, -1] = 1
    sample[:, -1, 2:6, 3:7] = 0
    return sample, torch.full((count,), 500), torch.randn(count, 1, 16, generator=generator)


def ramp() -> torch.Tensor:
    """A map whose two channels are where its cells lie across and down, -1 to 1 at the map's edges."""
    middle = (torch.arange(LAYOUT_SIZE) + 0.5) / LAYOUT_SIZE * 2 - 1
    down, across = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([across, down])[None]


@given(st.data())
def test_the_map_covers_the_square_around_the_hole_and_nothing_else(data: st.DataObject) -> None:
    top, left = (data.draw(st.integers(0, 13)) for _ in range(2))
    bottom, right = data.draw(st.integers(top + 2, 16)), data.draw(st.integers(left + 2, 16))
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., top:bottom, left:right] = 1
    laid = lay_into_hole(torch.ones(1, 1, LAYOUT_SIZE, LAYOUT_SIZE), mask, 1)
    assert (laid[mask == 1] > 0.4).all()
    middle, half = ((top + bottom) / 2, (left + right) / 2), max(bottom - top, right - left) / 2
    outside = torch.ones(16, 16, dtype=torch.bool)
    rows, columns = (slice(max(int(m - half) - 1, 0), int(m + half) + 2) for m in middle)
    outside[rows, columns] = False
    assert (laid[0, 0][outside] == 0).all()


def test_the_map_keeps_its_shape_whatever_the_hole_is_like() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:13, 6:10] = 1  # 10 by 4 cells: the map is as large as the hole is high
    across, down = lay_into_hole(ramp(), mask, 1)[0]
    torch.testing.assert_close(across[8, 6:10], torch.tensor([-0.3, -0.1, 0.1, 0.3]))
    torch.testing.assert_close(down[3:13, 8], ramp()[0, 1, :, 0])


def test_partly_covered_cells_tell_how_far_the_hole_reaches() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 4:12, 4:12] = 1
    mask[..., 4:12, 12] = 0.5  # half a cell more to the right
    across, _ = lay_into_hole(ramp(), mask, 1)[0]
    assert across[8, 8] == pytest.approx((8.5 - 4) / 8.5 * 2 - 1, abs=1e-6)


def test_cells_are_laid_by_the_pixel() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:13, 3:13] = 1
    mask[..., 3:13, 3] = 0.5
    across, down = lay_into_hole(ramp(), mask, 4)[0]
    assert across.shape == (64, 64)
    assert across[32, 16:50].diff().min() > 0
    assert across[32, 33].item() == pytest.approx((33.5 / 4 - (3.5 + 13) / 2) * 2 / 10, abs=1e-5)
    assert down[32, 33].item() == pytest.approx((32.5 / 4 - 8) * 2 / 10, abs=1e-5)


def test_a_picture_in_the_hole_reaches_the_first_convolution_as_its_latents() -> None:
    """A token that says one colour all over gives in the hole what the autoencoder makes of that colour."""
    network, (sample, _, condition) = unet(), inputs(1)
    vae = PatchAutoencoder(CELL, 4, decoder_channels=8, decoder_blocks=0)
    vae.fit(torch.rand(256, 3, 1, 1) * 2 - 1 + 0.01 * torch.randn(256, 3, CELL, CELL))
    network.take_latents_of(vae)
    colour = torch.tensor([0.5, -0.2, 0.1])[:, None, None].expand(1, 3, 8 * CELL, 8 * CELL)
    with torch.inference_mode():
        latents = vae.components(colour)[0, :, 0, 0]
        network.layout.weight.zero_()
        plan = network.layout.bias.unflatten(0, (-1, LAYOUT_SIZE, LAYOUT_SIZE))
        plan[:4] = latents[:, None, None]
        plan[4:] = 1
        seen = network.with_plan(sample, condition)[0]
        grey = vae.components(vae.inverse(latents[None, :, None, None]) * 0)[0, :, 0, 0]
    assert torch.equal(seen[:9], sample[0])
    again = vae.components(vae.inverse(latents[None, :, None, None])).detach()[0, :, 0, 0]
    torch.testing.assert_close(seen[9:13, 3:5, 4:6], again[:, None, None].expand(-1, 2, 2), atol=0.02, rtol=0)
    torch.testing.assert_close(seen[9:13, 0, 0], grey)
    assert (seen[13:, 3:5, 4:6] == 1).all()
    assert (seen[13:, 0] == -1).all()


def whole_unet(object_share: float) -> LayoutUNet:
    """One whose latents lose nothing, and whose map is one colour with an alpha all over."""
    torch.manual_seed(0)
    channels = 3 * CELL**2
    network: LayoutUNet = LayoutUNet(**{**SHAPE, "in_channels": 2 * channels + 1, "out_channels": channels})
    vae = PatchAutoencoder(CELL, channels, decoder_channels=8, decoder_blocks=0)
    vae.fit(torch.rand(1024, 3, 1, 1) * 2 - 1 + 0.01 * torch.randn(1024, 3, CELL, CELL))
    network.take_latents_of(vae)
    with torch.no_grad():
        network.layout.weight.zero_()
        plan = network.layout.bias.unflatten(0, (-1, LAYOUT_SIZE, LAYOUT_SIZE))
        plan[:-4] = vae.components(torch.full((1, 3, CELL, CELL), 0.5 * object_share))[0, :COARSE]
        plan[-4:] = 2 * object_share - 1
    return network.eval()  # type: ignore[no-any-return]


def clean_after(
    network: LayoutUNet,
    z_t: torch.Tensor,
    t: int,
    mask: torch.Tensor,
    light: bool = True,
    scale: float | torch.Tensor = 1.0,
    last: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """A guess of z_0, and what it is once drawn to the map."""
    torch.manual_seed(3)
    prediction, scheduler = torch.randn_like(z_t), build_scheduler()
    sample = torch.cat([z_t, torch.zeros_like(z_t), 1 - mask], dim=1)
    drawn = draw_to_layout(
        prediction, network, sample, torch.tensor(t), torch.randn(len(z_t), 1, 16), scheduler, scale, light, last=last
    )
    before, after = (predict_clean(z_t, e, torch.tensor(t), scheduler) for e in (prediction, drawn))
    return before, after


def test_where_the_object_is_a_guess_is_drawn_to_the_map() -> None:
    network, mask = whole_unet(1.0), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    z_t = torch.randn(1, 3 * CELL**2, 8, 8)
    with torch.inference_mode():
        before, after = clean_after(network, z_t, 999, mask)
        moved = (after - before).abs().mean(1)[0]
        one = after[:, :, 3:5, 3:5]
        shown = F.conv_transpose2d(one, network.to_pixels_weight, network.to_pixels_bias, stride=CELL)
        _, later = clean_after(network, z_t, 20, mask)
    assert (moved[mask[0, 0] == 0] == 0).all()
    sigma = (1 - build_scheduler().alphas_cumprod[999]).sqrt().item()
    assert sigma > 0.99
    torch.testing.assert_close(shown, torch.full_like(shown, 0.5), atol=0.05, rtol=0)
    cleaner, _ = clean_after(network, z_t, 20, mask)
    assert 0 < (later - cleaner).abs().mean() < 0.2 * moved.mean()


def test_at_the_last_level_a_guess_goes_no_further_than_the_map() -> None:
    network, mask = whole_unet(1.0), torch.ones(2, 1, 8, 8)
    z_t = torch.randn(2, 3 * CELL**2, 8, 8)
    scale = torch.tensor([1.0, 5.0])
    with torch.inference_mode():
        before, beyond = clean_after(network, z_t, 300, mask, scale=scale, last=200)
        _, there = clean_after(network, z_t, 300, mask, scale=scale, last=300)
    sigma = (1 - build_scheduler().alphas_cumprod[300]).sqrt().item()
    assert 1 < 5 * sigma < 4
    torch.testing.assert_close(there[0], beyond[0])  # σ_t alone is below 1
    torch.testing.assert_close(there[1] - before[1], (beyond[1] - before[1]) / (5 * sigma), rtol=1e-3, atol=1e-4)


def test_without_its_light_the_map_changes_shapes_and_little_of_the_mean_colour() -> None:
    network, mask = whole_unet(1.0), torch.ones(1, 1, 8, 8)
    z_t = torch.randn(1, 3 * CELL**2, 8, 8)
    means = []
    with torch.inference_mode():
        for light in (True, False):
            before, after = clean_after(network, z_t, 999, mask, light)
            change = F.conv_transpose2d(after - before, network.to_pixels_weight, stride=CELL)
            assert change.abs().mean() > 0.01
            means.append(change.mean((2, 3)).abs().max().item())
    assert means[0] > 0.05
    assert means[1] == pytest.approx(LIGHT * means[0], rel=0.05)


def test_the_map_of_another_exemplar_or_hole_is_laid_anew() -> None:
    network, mask = whole_unet(1.0), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    one, two = torch.randn(2, 1, 1, 16)
    with torch.inference_mode():
        network.layout.weight.normal_()
        first = network.lay_once(one, mask)
        assert network.lay_once(one.clone(), mask.clone()) is first
        other = network.lay_once(two, mask)  # of another edit, which takes turns with the first
        assert network.lay_once(one, mask) is first
        assert network.lay_once(two, mask) is other
        for condition, hole, equal in ((two, mask, False), (one, torch.ones_like(mask), False), (one, mask, True)):
            laid = network.lay_once(condition, hole)
            assert torch.equal(F.pixel_shuffle(laid[0], CELL), network.lay(condition, hole))
            assert all(torch.equal(*pair) == equal for pair in zip(laid, first, strict=True))
        changed = one.clone()
        network.lay_once(changed, mask)
        changed += 1
        assert torch.equal(F.pixel_shuffle(network.lay_once(changed, mask)[0], CELL), network.lay(changed, mask))
    assert network.lay_once(one.clone().requires_grad_(), mask)[0].requires_grad
    with torch.no_grad():
        network.layout.bias.add_(1)
        assert not torch.equal(network.lay_once(one, mask)[0], first[0])


def test_pull_and_guidance_together_are_of_the_strength_asked() -> None:
    """Guided from the null token's prediction, which is not drawn: λ times the pull of 1."""
    network, mask = whole_unet(1.0), torch.ones(2, 1, 8, 8)
    z_t, scale = torch.randn(2, 3 * CELL**2, 8, 8), torch.tensor([5.0, 0.5])
    with torch.inference_mode():
        before, once = clean_after(network, z_t, 999, mask)
        _, after = clean_after(network, z_t, 999, mask, scale=scale)
    own = torch.as_tensor(own_guidance(scale, network)).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(
        own * (after - before), scale.reshape(-1, 1, 1, 1) * (once - before), rtol=1e-3, atol=1e-4
    )


def test_a_map_that_shows_nothing_draws_nothing() -> None:
    mask = torch.ones(1, 1, 8, 8)
    with torch.inference_mode():
        network = whole_unet(0.0)
        network.layout.bias[:-400] = (
            F.conv2d(torch.zeros(1, 3, CELL, CELL), network.to_latents_weight, network.to_latents_bias)[0, :COARSE]
            .expand(-1, LAYOUT_SIZE, LAYOUT_SIZE)
            .flatten()
        )
        before, after = clean_after(network, torch.randn(1, 3 * CELL**2, 8, 8), 999, mask)
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)


def test_guidance_by_its_own_predictions_is_at_most_1() -> None:
    network, other = whole_unet(1.0), UNet2DConditionModel(**SHAPE)
    assert [own_guidance(scale, network) for scale in (0.0, 0.5, 1.0, 5.0)] == [0.0, 0.5, 1.0, 1.0]
    each = torch.tensor([0.5, 5.0])
    assert torch.equal(torch.as_tensor(own_guidance(each, network)), torch.tensor([0.5, 1.0]))
    assert own_guidance(5.0, other) == 5.0
    assert own_guidance(each, other) is each


def test_noise_is_as_drawn_where_the_object_is_and_weaker_beside_it() -> None:
    network, mask = whole_unet(1.0), torch.zeros(2, 1, 16, 16)
    mask[..., 3:13, 3:13] = 1
    noise = torch.randn(2, 3 * CELL**2, 16, 16)
    with torch.inference_mode():
        network.layout.bias.unflatten(0, (-1, LAYOUT_SIZE, LAYOUT_SIZE))[-4:, :, :5] = -1  # nothing in its left half
        calm = calm_beside(noise, network, torch.zeros(1, 1, 16), mask)
    torch.testing.assert_close(calm[..., 4:12, 10:12], noise[..., 4:12, 10:12])
    torch.testing.assert_close(calm[..., :7], TEMPERATURE * noise[..., :7])
    assert calm_beside(noise, UNet2DConditionModel(**SHAPE), torch.zeros(1, 1, 16), mask) is noise


def test_a_map_that_is_placed_by_itself_lies_where_it_lies() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 3:13, 3:13], mask[1, :, 2:8, 5:15] = 1, 1
    picture = torch.rand(2, 3, 80, 80)
    own = torch.eye(2, 3).repeat(2, 1, 1)
    torch.testing.assert_close(lay_into_hole(picture, mask, CELL, own), lay_into_hole(picture, mask, CELL))


def test_a_placed_map_shows_at_a_pixel_what_lay_where_its_place_says() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 3:13, 3:13] = 1
    place = torch.tensor([[[0.0, 1.0, 2.0], [-1.0, 0.0, 130.0]]])  # a quarter turn, and three pixels down
    torch.manual_seed(0)
    picture = F.interpolate(torch.rand(1, 3, 10, 10), 80, mode="bicubic")
    plain, placed = lay_into_hole(picture, mask, CELL), lay_into_hole(picture, mask, CELL, place)
    for x, y in ((40, 50), (64, 64), (80, 41)):
        torch.testing.assert_close(placed[0, :, y, x], plain[0, :, 130 - x, y + 2], atol=1e-4, rtol=0)


def stood(mask: torch.Tensor, scale: float = 1.0, seed: int = 0) -> Lines:
    """Lines of a picture of noise, each map of which lies eight pixels further to the right."""
    generator = torch.Generator().manual_seed(seed)
    pixels = F.interpolate(mask, scale_factor=CELL)
    source, drawing = (torch.rand(len(mask), c, *pixels.shape[-2:], generator=generator) for c in (3, 1))
    lines = Lines.of(source * 2 - 1, pixels, drawing, scale)
    assert lines is not None
    return lines


def test_by_lines_all_that_heeds_the_map_heeds_where_it_is_laid(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = torch.tensor([[1.0, 0.0, -8.0], [0.0, 1.0, 0.0]])
    monkeypatch.setattr(Lines, "places", lambda self, condition, laid: moved.expand(len(laid), -1, -1))
    network, mask = whole_unet(1.0), torch.zeros(1, 1, 16, 16)
    mask[..., 3:13, 3:13] = 1
    lines, token = stood(mask), torch.zeros(1, 1, 16)
    sample = torch.cat([torch.zeros(1, 6 * CELL**2, 16, 16), 1 - mask], dim=1)
    with torch.inference_mode():
        network.layout.bias.unflatten(0, (-1, LAYOUT_SIZE, LAYOUT_SIZE))[-4:, :, :5] = -1  # nothing in its left half
        plain, placed = network.lay_once(token, mask), network.lay_once(token, mask, lines)
        torch.testing.assert_close(placed[0][..., 1:], plain[0][..., :-1])
        assert network.lay_once(token, mask, lines) is placed
        assert torch.equal(network.lay_once(token, mask)[0], plain[0])  # not what lines were kept for
        seen = [network.with_plan(sample, token, one)[:, -4:] for one in (None, lines)]
        torch.testing.assert_close(seen[1][..., 1:], seen[0][..., :-1])
        noise = torch.ones(1, 3, 16, 16)
        calm = [calm_beside(noise, network, token, mask, one) for one in (None, lines)]
        torch.testing.assert_close(calm[1][..., 1:], calm[0][..., :-1])
        prediction, scheduler = torch.randn(1, 3 * CELL**2, 16, 16), build_scheduler()
        drawn = [
            draw_to_layout(prediction, network, sample, torch.tensor(999), token, scheduler, 1.0, lines=one)
            for one in (None, lines)
        ]
        beyond = mask[0, 0].bool() & (torch.arange(16) >= 8)[None]
        left = (drawn[0] - drawn[1]).abs().mean(1)[0]
        assert left[:, 8][mask[0, 0, :, 8] > 0].min() > 0.01  # the object begins a cell later
        assert left[beyond & (torch.arange(16) > 9)[None]].max() < 1e-4
        painted = torch.full((1, 3, 128, 128), -0.9)
        shown = continue_beside(painted, network, lines.source, lines.mask.float(), mask, token, lines=lines)
    between = image_tensor(lines.continued()[0])
    assert torch.equal(shown[..., 24:104, 80:104], painted[..., 24:104, 80:104])
    torch.testing.assert_close(shown[..., 24:104, 24:64], between[..., 24:104, 24:64])


def test_surroundings_go_on_beside_the_object() -> None:
    """Where the map has none, a hole in two greys becomes those; where it has one, what was painted shows."""
    network, mask = whole_unet(1.0), torch.zeros(2, 1, 128, 128)
    mask[:, :, 24:104, 24:104] = 1
    mask[1] = 1  # nothing is left to go on
    source = torch.full((2, 3, 128, 128), 0.5)
    source[..., 64:, :] = -0.5
    source = torch.where(mask > 0, 1.0, source)
    painted = torch.full((2, 3, 128, 128), -0.9)
    with torch.inference_mode():
        network.layout.bias.unflatten(0, (-1, LAYOUT_SIZE, LAYOUT_SIZE))[-4:, :, :5] = -1  # nothing in its left half
        cells = torch.nn.functional.avg_pool2d(mask, CELL)
        token = torch.zeros(1, 1, 16)
        shown = continue_beside(painted, network, source, mask, cells, token)
    for grey, rows in ((0.5, slice(24, 50)), (-0.5, slice(78, 104))):
        torch.testing.assert_close(shown[0, :, rows, 24:56], torch.full((3, 26, 32), grey), atol=0.06, rtol=0)
    assert torch.equal(shown[0, :, 24:104, 72:104], painted[0, :, 24:104, 72:104])
    assert torch.equal(shown[0, :, :24], painted[0, :, :24])
    assert torch.equal(shown[1], painted[1])
    assert continue_beside(painted, UNet2DConditionModel(**SHAPE), source, mask, cells, token) is painted


def test_other_networks_are_left_alone() -> None:
    prediction = torch.randn(1, 4, 8, 8)
    plain = UNet2DConditionModel(**SHAPE)
    same = draw_to_layout(prediction, plain, prediction, torch.tensor(9), torch.zeros(1, 1, 16), build_scheduler(), 5.0)
    assert same is prediction


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_hole_of_one_cell(share: float) -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5, 7] = share
    laid = lay_into_hole(torch.ones(1, 1, LAYOUT_SIZE, LAYOUT_SIZE), mask, 1)
    assert laid[0, 0, 5, 7] == 1
    assert laid.sum() == 1


def test_without_a_hole_the_map_covers_all() -> None:
    laid = lay_into_hole(ramp(), torch.zeros(1, 1, LAYOUT_SIZE, LAYOUT_SIZE), 1)
    torch.testing.assert_close(laid, ramp())


def test_the_exemplar_says_what_lies_where() -> None:
    """Attention to one token adds a constant; the map's influence differs from place to place."""
    network, (sample, t, condition) = unet(), inputs(1)
    with torch.inference_mode():
        torch.nn.init.zeros_(network.layout.bias)
        one = network(sample, t, condition).sample
        network.layout.weight.zero_()
        other = network(sample, t, condition).sample
    difference = (one - other).abs()[0].mean(0)
    assert difference[2:6, 3:7].mean() > difference[:, 0].mean()
    assert difference.max() > 1e-4


def test_it_has_no_parameter_that_one_token_makes_pointless() -> None:
    network, (sample, t, condition) = unet().train(), inputs()
    network(sample, t, condition).sample.square().sum().backward()
    idle = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert idle == {"layout.weight", "layout.bias"}  # fitted, see `thumbnail.EmbeddedImageEncoder.fit`


def test_without_the_map_it_is_the_plain_network() -> None:
    network, (sample, t, condition) = unet(), inputs()
    plain = UNet2DConditionModel(**SHAPE).eval()
    weights = network.state_dict()
    assert weights["conv_in.weight"].shape[1] == 9 + 4 + PARTS**2
    weights["conv_in.weight"][:, 9:] = 0
    network.load_state_dict(weights)
    known = {name: value for name, value in weights.items() if not name.startswith(("layout.", "to_"))}
    known["conv_in.weight"] = known["conv_in.weight"][:, :9]
    missing, unknown = plain.load_state_dict(known, strict=False)
    assert unknown == []
    assert all(".norm2." in name or ".attn2.to_" in name for name in missing)
    with torch.inference_mode():
        torch.testing.assert_close(network(sample, t, condition).sample, plain(sample, t, condition).sample)


def test_it_is_saved_and_loaded_as_any_network_of_diffusers(tmp_path: Path) -> None:
    network, arguments = unet(), inputs()
    network.save_pretrained(tmp_path)
    again = LayoutUNet.from_pretrained(tmp_path)
    assert again.config.in_channels == 9
    with torch.inference_mode():
        assert torch.equal(network(*arguments).sample, again(*arguments).sample)


def test_several_tokens_are_refused() -> None:
    sample, t, condition = inputs()
    with pytest.raises(ModelError, match="one token, not of 3"):
        unet()(sample, t, condition.expand(-1, 3, -1))
