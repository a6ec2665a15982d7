"""Metrics on pixels, and the methods without a model."""

import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from paint_by_example.evaluation.background import changed_outside, psnr_outside, ssim_outside
from paint_by_example.evaluation.baselines import BASELINES, cut_and_paste, harmonised, inpaint, poisson
from paint_by_example.evaluation.benchmark import Item
from paint_by_example.evaluation.edges import edge_agreement
from paint_by_example.evaluation.seam import seam_visibility


def smooth(width: int, height: int, seed: int = 0) -> Any:
    """A soft picture with some texture."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(60, 200, (5, 6, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 3, coarse.shape), 0, 255).astype(np.uint8)


def box(width: int, height: int, left: int, top: int, right: int, bottom: int) -> Any:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return mask


SOURCE, MASK = smooth(80, 60), box(80, 60, 20, 15, 50, 45)


# --- background -------------------------------------------------------------------------------------------------------


def test_what_is_painted_inside_does_not_count() -> None:
    result = SOURCE.copy()
    result[MASK] = 0
    assert changed_outside(SOURCE, result, MASK) == 0
    assert psnr_outside(SOURCE, result, MASK) == 100
    assert ssim_outside(SOURCE, result, MASK) == pytest.approx(1, abs=1e-12)


def test_a_known_change_outside() -> None:
    result = SOURCE.copy()
    result[0, :40] = np.where(SOURCE[0, :40] > 127, SOURCE[0, :40] - 4, SOURCE[0, :40] + 4)
    outside = 80 * 60 - 900
    assert changed_outside(SOURCE, result, MASK) == pytest.approx(100 * 40 / outside)
    assert psnr_outside(SOURCE, result, MASK) == pytest.approx(10 * math.log10(255**2 / (16 * 40 / outside)))
    assert ssim_outside(SOURCE, result, MASK) < 1


def test_ssim_without_a_mask_is_torchmetrics() -> None:
    """Theirs leaves out the windows that reach over the border, so those are left out here too, by a mask."""
    result = np.clip(SOURCE + np.random.default_rng(1).normal(0, 12, SOURCE.shape), 0, 255).astype(np.uint8)
    x, y = (torch.from_numpy(one).permute(2, 0, 1)[None].double() for one in (SOURCE, result))
    _, full = structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
    inner = slice(5, -5)
    expected = float(full[..., inner, inner].mean())
    nothing = np.zeros((60, 80), bool)
    from skimage.metrics import structural_similarity

    compare: Any = structural_similarity
    _, ours = compare(
        SOURCE, result, channel_axis=2, data_range=255, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    assert ours[inner, inner].mean() == pytest.approx(expected, abs=1e-4)
    assert ssim_outside(SOURCE, result, nothing) == pytest.approx(ours.mean(), abs=1e-12)


def test_nothing_outside_is_unchanged() -> None:
    everything = np.ones((60, 80), bool)
    result = 255 - SOURCE
    assert changed_outside(SOURCE, result, everything) == 0
    assert psnr_outside(SOURCE, result, everything) == 100
    assert ssim_outside(SOURCE, result, everything) == 1


# --- seam and edges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [5, 40])
def test_a_step_along_the_edge_is_its_height(step: int) -> None:
    ground = np.full((60, 80, 3), 100, np.uint8)
    ground[MASK] += np.uint8(step)
    assert seam_visibility(ground, MASK) == pytest.approx(step)


def test_no_seam_in_a_slope_or_in_texture() -> None:
    slope = np.tile(np.arange(0, 160, 2).astype(np.uint8)[None, :, None], (60, 1, 3))
    assert seam_visibility(slope, MASK) == pytest.approx(0)
    texture = np.random.default_rng(2).integers(0, 256, (400, 400, 3)).astype(np.uint8)
    assert abs(seam_visibility(texture, box(400, 400, 50, 50, 350, 350))) < 4  # of 85, the mean step between neighbours
    assert seam_visibility(texture, np.ones((400, 400), bool)) == 0


def test_edges_that_stay_agree_and_edges_that_move_do_not() -> None:
    def bars(shift: int) -> Any:
        picture = np.full((60, 80, 3), 60, np.uint8)
        picture[:, 24 + shift : 30 + shift] = 200
        return picture

    assert edge_agreement(bars(0), bars(0), MASK) == 1
    assert edge_agreement(bars(0), 255 - bars(0), MASK) == 1  # edges, not colours
    assert edge_agreement(bars(0), bars(1), MASK) == 1  # within the tolerance
    assert edge_agreement(bars(0), bars(13), MASK) == 0
    flat = np.full((60, 80, 3), 60, np.uint8)
    assert 0 < edge_agreement(bars(0), np.maximum(bars(0), bars(13)), MASK) < 1
    assert edge_agreement(bars(0), flat, MASK) == 0
    assert edge_agreement(flat, flat, MASK) == 1


def test_edges_outside_do_not_count() -> None:
    changed = SOURCE.copy()
    changed[:, 60:] = 0
    assert edge_agreement(SOURCE, changed, MASK) == edge_agreement(SOURCE, SOURCE, MASK)


# --- methods ----------------------------------------------------------------------------------------------------------


def item(mask: Any = MASK) -> Item:
    return Item("0", SOURCE, mask, np.full((30, 30, 3), (250, 20, 30), np.uint8))


ODD = np.zeros((60, 80), bool)
ODD[cv2.circle(np.zeros((60, 80), np.uint8), (30, 30), 14, 1, -1) > 0] = True
MASKS = [MASK, ODD, box(80, 60, 0, 0, 31, 27), box(80, 60, 50, 20, 80, 60), box(80, 60, 0, 0, 80, 60)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", BASELINES)
def test_methods_keep_what_is_outside_bit_for_bit(name: str, mask: Any) -> None:
    if name == "inpaint" and mask.all():
        pytest.skip("there is nothing to fill the hole from")
    before = SOURCE.copy()
    result = BASELINES[name](item(mask))
    assert result.dtype == np.uint8
    assert result.shape == SOURCE.shape
    assert (result[~mask] == SOURCE[~mask]).all()
    assert (before == SOURCE).all()
    assert (result == SOURCE).all() == (name == "source")


def test_pasting_fills_the_mask_with_the_exemplar() -> None:
    assert (cut_and_paste(item(ODD))[ODD] == (250, 20, 30)).all()


def test_blending_takes_the_seam_away() -> None:
    pasted, blended = (seam_visibility(method(item()), MASK) for method in (cut_and_paste, poisson))
    assert pasted > 40
    assert abs(blended) < 0.1 * pasted


def test_blending_does_not_move_the_exemplar() -> None:
    exemplar = np.full((30, 30, 3), 128, np.uint8)
    exemplar[9:20, 9:20] = 255
    flat = Item("0", np.full((60, 80, 3), 128, np.uint8), MASK, exemplar)
    bright = poisson(flat)[..., 0] > 190
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (15 + 9, 15 + 19, 20 + 9, 20 + 19)


def test_harmony_takes_on_the_surroundings_colours() -> None:
    exemplar = np.random.default_rng(3).integers(150, 256, (30, 30, 3)).astype(np.uint8)
    shown = Item("0", SOURCE, MASK, exemplar)
    ring = (cv2.dilate(MASK.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0) & ~MASK
    around = SOURCE[ring].mean(0)
    assert np.abs(harmonised(shown)[MASK].mean(0) - around).max() < 12
    assert np.abs(cut_and_paste(shown)[MASK].mean(0) - around).max() > 40


def test_inpainting_does_not_look_at_the_exemplar() -> None:
    other = Item("0", SOURCE, MASK, np.zeros((9, 9, 3), np.uint8))
    assert (inpaint(item()) == inpaint(other)).all()
    hidden = SOURCE.copy()
    hidden[MASK] = 0
    assert (inpaint(Item("0", hidden, MASK, other.exemplar)) == inpaint(other)).all()  # nor under the mask
