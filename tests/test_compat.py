"""The compat modes: each behaviour against an account of the ancestor's that shares no code with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from paint_by_example import PaintByExamplePipeline, UserError
from paint_by_example.compat import fit_exemplar, latent_mask
from paint_by_example.errors import MaskError, PictureError
from paint_by_example.sampling import make_scheduler, seeded_generators
from tests import tiny

MODES = (None, "original", "diffusers")
ANCESTORS = ("original", "diffusers")
SOURCE = tiny.picture(tiny.IMAGE, tiny.IMAGE)
EXEMPLAR = tiny.picture(40, 20, seed=1)
BOX = (8, 8, 24, 20)


def mask_of(value: int = 255, size: tuple[int, int] = SOURCE.size, box: tuple[int, int, int, int] = BOX) -> Image.Image:
    mask = Image.new("L", size)
    mask.paste(value, box)
    return mask


def clip(compat: str | None) -> tuple[PaintByExamplePipeline, tiny.RecordingUnet]:
    """The released model's family, whose posterior has a deviation, with a U-Net that writes down what it is shown."""
    pipeline = tiny.clip_pipeline()
    pipeline.compat = compat
    return pipeline, tiny.record_unet(pipeline)


def call(pipeline: PaintByExamplePipeline, **given: Any) -> Any:
    asked: dict[str, Any] = {
        "image": SOURCE,
        "mask_image": mask_of(),
        "example_image": EXEMPLAR,
        "num_inference_steps": 2,
    }
    return pipeline(**(asked | {"output_type": "latent"} | given))


def seen(unet: tiny.RecordingUnet) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, masked latent and the channel of what is kept, as the U-Net is shown them first; the conditional half."""
    x = unet.seen[0][0]
    z_t, z_masked, keep = x.split([4, 4, 1], dim=1)
    return z_t, z_masked, keep


# --- the mode itself -------------------------------------------------------------------------------------------------


def test_a_mode_is_checked_and_not_saved(tmp_path: Path) -> None:
    pipeline = tiny.embedded_pipeline()
    assert pipeline.compat is None
    with pytest.raises(UserError, match="compat must be 'original', 'diffusers' or None, got 'Original'"):
        pipeline.compat = "Original"
    pipeline.compat = "original"
    pipeline.save_pretrained(tmp_path)
    assert "original" not in (tmp_path / "model_index.json").read_text()
    assert PaintByExamplePipeline.from_pretrained(tmp_path).compat is None
    assert PaintByExamplePipeline.from_pretrained(tmp_path, compat="diffusers").compat == "diffusers"
    with pytest.raises(UserError, match="got 'both'"):
        PaintByExamplePipeline.from_pretrained(tmp_path, compat="both")
    assert "compat" not in json.loads((tmp_path / "model_index.json").read_text())


# --- the exemplar ----------------------------------------------------------------------------------------------------


@given(width=st.integers(1, 90), height=st.integers(1, 90), side=st.sampled_from([16, 32, 37]))
@settings(max_examples=40, deadline=None)
def test_the_centre_is_that_of_clips_own_preparation(width: int, height: int, side: int) -> None:
    picture = tiny.picture(width, height)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size=side, do_normalize=False, do_rescale=False, resample=3
    )
    expected = processor(picture, return_tensors="np").pixel_values[0]
    found = np.asarray(fit_exemplar(picture, side, "centre")).transpose(2, 0, 1)
    assert (found == expected).all()


@pytest.mark.parametrize(("compat", "means"), [(None, 1 / 3), ("original", 1 / 3), ("diffusers", 0.0)])
def test_of_three_stripes_the_centre_shows_the_middle_one(compat: str | None, means: float) -> None:
    stripes = np.zeros((50, 300, 3), np.uint8)
    for third in range(3):
        stripes[:, 100 * third : 100 * (third + 1), third] = 255
    pipeline = tiny.clip_pipeline()
    pipeline.compat = compat
    x = pipeline.exemplar_tensor([Image.fromarray(stripes)])[0]
    mean, std = (
        torch.tensor(values) for values in (pipeline.feature_extractor.image_mean, pipeline.feature_extractor.image_std)
    )
    colours = (x.mean((1, 2)) * std + mean).tolist()
    assert colours == pytest.approx([means, 1 - 2 * means, means], abs=0.02)


def test_an_endless_exemplar_has_no_centre() -> None:
    with pytest.raises(PictureError, match="1 x 9000 pixels, too long"):
        fit_exemplar(tiny.picture(1, 9000), 32, "centre")


# --- the mask --------------------------------------------------------------------------------------------------------


def test_a_padded_exemplar_keeps_its_shape_on_its_own_backdrop():
    picture = Image.new("RGB", (20, 60), (10, 200, 30))
    picture.paste((250, 0, 0), (4, 10, 16, 60))
    found = np.asarray(fit_exemplar(picture, 30, "pad"))
    assert found.shape == (30, 30, 3)
    red = found[..., 0] > 130
    assert np.flatnonzero(red.any(0)).tolist() == list(range(12, 18))
    assert np.flatnonzero(red.any(1)).tolist() == list(range(5, 30))
    assert (found[:, :8] == (10, 200, 30)).all()
    assert (found[:, -8:] == (10, 200, 30)).all()


@given(seed=st.integers(0, 1000), factor=st.sampled_from([2, 4, 8]))
@settings(max_examples=20, deadline=None)
def test_latent_masks_by_hand(seed: int, factor: int) -> None:
    mask = torch.randint(0, 2, (1, 1, 4 * factor, 3 * factor), generator=torch.Generator().manual_seed(seed)).float()
    cells = mask.unfold(2, factor, factor).unfold(3, factor, factor)  # (1, 1, 4, 3, f, f)
    half = factor // 2
    middle = cells[..., half - 1 : half + 1, half - 1 : half + 1]  # what the middle of a cell lies between
    expected = {"area": cells.mean((-1, -2)), "nearest": cells[..., 0, 0], "bilinear": middle.mean((-1, -2))}
    for how, value in expected.items():
        found: Any = latent_mask(mask, (4, 3), how)  # type: ignore[arg-type]
        torch.testing.assert_close(found, value, rtol=0, atol=1e-6)


def test_a_thin_stroke_vanishes_in_the_ancestors_only() -> None:
    """Of 4 pixels in cells of 8: nearest loses it at half of the offsets, bilinear at three of eight."""
    lost = {"area": 0, "nearest": 0, "bilinear": 0}
    for offset in range(8):
        mask = torch.zeros(1, 1, 64, 64)
        mask[:, :, 24 + offset : 28 + offset] = 1
        for how in lost:
            lost[how] += not latent_mask(mask, (8, 8), how).any()  # type: ignore[arg-type]
    assert lost == {"area": 0, "nearest": 4, "bilinear": 3}


@pytest.mark.parametrize("compat", MODES)
def test_what_the_unet_is_told_to_keep(compat: str | None) -> None:
    pipeline, unet = clip(compat)
    mask = mask_of(box=(9, 8, 23, 20))  # columns 9 to 22: no multiples of the factor of 2
    call(pipeline, mask_image=mask)
    how = {None: "area", "original": "bilinear", "diffusers": "nearest"}[compat]
    repaint = torch.from_numpy(np.asarray(mask) > 0)[None, None].float()
    assert torch.allclose(seen(unet)[2][:1], 1 - latent_mask(repaint, (16, 16), how))  # type: ignore[arg-type]


@pytest.mark.parametrize("compat", MODES)
def test_127_keeps_and_128_repaints(compat: str | None) -> None:
    pipeline, unet = clip(compat)
    mask = mask_of(127)
    mask.paste(128, (0, 0, 8, 8))
    call(pipeline, mask_image=mask)
    keep = seen(unet)[2][0, 0]
    assert keep[:4, :4].eq(0).all()
    assert keep[4:].eq(1).all()
    with pytest.raises(MaskError, match="selects nothing"):
        call(pipeline, mask_image=mask_of(127))


@pytest.mark.parametrize(("compat", "kept"), [(None, 0.0), ("original", 1.0), ("diffusers", 1.0)])
def test_exactly_one_half_in_a_tensor(compat: str | None, kept: float) -> None:
    pipeline, unet = clip(compat)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :8, :] = 1
    mask[..., 16:, :] = 0.5
    call(pipeline, mask_image=mask)
    assert seen(unet)[2][0, 0, 8:].eq(kept).all()


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compat", "scale", "guided"),
    [(mode, 5.0, True) for mode in MODES]
    + [(mode, 1.0, False) for mode in MODES]
    + [(None, 0.5, True), ("original", 0.5, True), ("diffusers", 0.5, False), ("diffusers", -2.0, False)],
)
def test_when_there_is_guidance(compat: str | None, scale: float, guided: bool) -> None:
    pipeline, unet = clip(compat)
    call(pipeline, guidance_scale=scale)
    assert len(unet.seen[0][0]) == (2 if guided else 1)
    conditions = unet.seen[0][2]
    assert torch.equal(conditions[-1:], pipeline.encode_exemplar([EXEMPLAR]))


def test_a_scale_below_one_is_one_in_diffusers() -> None:
    pipeline = tiny.clip_pipeline()
    pipeline.compat = "diffusers"
    low, one, high = (
        call(pipeline, guidance_scale=scale, generator=torch.Generator().manual_seed(0)).images
        for scale in (0.3, 1.0, 1.7)
    )
    assert torch.equal(low, one)
    assert not torch.equal(high, one)


# --- what is drawn, and when -----------------------------------------------------------------------------------------


def posterior(pipeline: PaintByExamplePipeline, source: Image.Image = SOURCE) -> Any:
    x = torch.from_numpy(np.array(source)).permute(2, 0, 1)[None] / 127.5 - 1
    keep = torch.from_numpy(np.asarray(mask_of()) == 0)[None, None]
    with torch.no_grad():
        return pipeline.vae.encode(x * keep).latent_dist


def check_draws(unet: tiny.RecordingUnet, expected: Any, z_T: Tensor, noise: Tensor | None) -> None:
    """Whether the U-Net was shown this noise, and a posterior with that one."""
    z_t, z_masked, _ = seen(unet)
    assert torch.equal(z_t[: len(z_T)], z_T)
    z = expected.mean if noise is None else expected.mean + expected.std * noise
    torch.testing.assert_close(z_masked[: len(z_T)], 0.18215 * z.expand(len(z_T), -1, -1, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("compat", MODES)
def test_the_order_of_draws(compat: str | None) -> None:
    pipeline, unet = clip(compat)
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randn(1, 4, 16, 16, generator=generator) for _ in range(2))
    call(pipeline, generator=torch.Generator().manual_seed(5))
    z_T, noise = {None: (first, None), "original": (second, first), "diffusers": (first, second)}[compat]
    check_draws(unet, posterior(pipeline), z_T, noise)


@pytest.mark.parametrize("compat", MODES)
def test_with_latents_only_the_posterior_is_drawn(compat: str | None) -> None:
    pipeline, unet = clip(compat)
    z_T = torch.randn(1, 4, 16, 16)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    call(pipeline, generator=torch.Generator().manual_seed(5), latents=z_T)
    check_draws(unet, posterior(pipeline), z_T, None if compat is None else noise)


@pytest.mark.parametrize("compat", ANCESTORS)
def test_without_a_generator_torchs_own_is_drawn_from(compat: str) -> None:
    pipeline, unet = clip(compat)
    torch.manual_seed(11)
    first, second = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    torch.manual_seed(11)
    call(pipeline)
    check_draws(unet, posterior(pipeline), *((first, second) if compat == "diffusers" else (second, first)))


@pytest.mark.parametrize("compat", ANCESTORS)
def test_of_several_results_the_posterior_is_drawn_once(compat: str) -> None:
    pipeline, unet = clip(compat)
    generator = torch.Generator().manual_seed(5)
    shapes = [(3, 4, 16, 16), (1, 4, 16, 16)]
    draws = [torch.randn(shape, generator=generator) for shape in (shapes if compat == "diffusers" else shapes[::-1])]
    z_T, noise = draws if compat == "diffusers" else draws[::-1]
    call(pipeline, generator=torch.Generator().manual_seed(5), num_images_per_prompt=3)
    assert len(unet.seen[0][0]) == 6  # one batch, with and without the exemplar
    check_draws(unet, posterior(pipeline), z_T, noise)


@pytest.mark.parametrize("compat", ANCESTORS)
def test_a_generator_for_each_result(compat: str) -> None:
    pipeline, unet = clip(compat)
    call(pipeline, image=[SOURCE, SOURCE], generator=seeded_generators([1, 2]))
    draws = [[torch.randn(1, 4, 16, 16, generator=g) for _ in range(2)] for g in seeded_generators([1, 2])]
    first, second = (torch.cat([draw[i] for draw in draws]) for i in range(2))
    check_draws(unet, posterior(pipeline), *((first, second) if compat == "diffusers" else (second, first)))


@pytest.mark.parametrize("compat", ANCESTORS)
def test_the_noise_of_a_step_comes_last(compat: str) -> None:
    """With eta = 1 and a U-Net that predicts no noise, what DDIM adds is known."""
    pipeline, _ = clip(compat)
    pipeline.scheduler = scheduler = make_scheduler("ddim", pipeline.scheduler)
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(1, 4, 16, 16, generator=generator) for _ in range(3)]
    found = call(pipeline, generator=torch.Generator().manual_seed(5), num_inference_steps=1, eta=1.0).images
    z_T = draws[0] if compat == "diffusers" else draws[1]
    now, after = scheduler.alphas_cumprod[1], scheduler.final_alpha_cumprod
    sigma = ((1 - after) / (1 - now) * (1 - now / after)).sqrt()
    expected = (after / now).sqrt() * z_T + sigma * draws[2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("compat", MODES)
def test_in_which_precision_noise_is_drawn(compat: str | None) -> None:
    pipeline = tiny.clip_pipeline().to(torch.bfloat16)
    pipeline.compat = compat
    unet = tiny.record_unet(pipeline)
    call(pipeline, generator=torch.Generator().manual_seed(5))
    kind = torch.bfloat16 if compat == "diffusers" else torch.float32
    generator = torch.Generator().manual_seed(5)
    draws = [torch.randn(1, 4, 16, 16, generator=generator, dtype=kind) for _ in range(2)]
    assert torch.equal(seen(unet)[0][:1], draws[compat == "original"].bfloat16())


# --- sizes, and edit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", ANCESTORS)
def test_whole_pictures_of_any_multiple(compat: str) -> None:
    pipeline = tiny.clip_pipeline()
    pipeline.compat = compat
    source = tiny.picture(50, 26)
    images = call(pipeline, image=source, mask_image=mask_of(size=source.size), output_type="np").images
    assert images.shape == (1, 26, 50, 3)
    assert (np.abs(images[0] - np.asarray(source) / 255) > 0.01).mean() > 0.9  # nothing is pasted back
    odd = tiny.picture(51, 26)
    with pytest.raises(PictureError, match="51 x 26 pixels; with compat its sides must be multiples of 2"):
        call(pipeline, image=odd, mask_image=mask_of(size=odd.size))


def test_a_mode_goes_with_any_layout(family: str) -> None:
    results = {}
    for compat in MODES:
        pipeline = tiny.PIPELINES[family]()
        pipeline.compat = compat
        results[compat] = call(
            pipeline, mask_image=mask_of(box=(9, 7, 22, 21)), generator=torch.Generator().manual_seed(0)
        ).images
    assert not torch.equal(results[None], results["original"])
    assert not torch.equal(results["original"], results["diffusers"])


@pytest.mark.parametrize("compat", ANCESTORS)
def test_edit_crops_and_pastes_back_in_every_mode(compat: str, family: str) -> None:
    """Its geometry is ours; exemplar, mask, noise and guidance are the mode's."""
    pipeline = tiny.PIPELINES[family]()
    source, box = tiny.picture(90, 70), (21, 13, 47, 38)
    plain = pipeline.edit(source, exemplar=EXEMPLAR, box=box, steps=2)
    pipeline.compat = compat
    result = pipeline.edit(source, exemplar=EXEMPLAR, box=box, steps=2)
    assert result.box == plain.box
    assert result.records[0].compat == compat
    outside = np.asarray(mask_of(size=source.size, box=box)) == 0
    assert (np.asarray(result.images[0])[outside] == np.asarray(source)[outside]).all()
    assert (np.asarray(result.images[0]) != np.asarray(plain.images[0])).any()
    together = pipeline.edit(source, exemplar=EXEMPLAR, box=box, steps=2, seed=[4, 0]).images[1]
    assert (np.asarray(together) == np.asarray(result.images[0])).all()
