"""The square around a mask, what resizing keeps, and pasting back."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paint_by_example.crops import (
    MINIMUM_CROP,
    box_mask,
    context_crop,
    crop_image,
    crop_mask,
    mask_bounds,
    parse_box,
    paste_back,
    resize,
    resize_mask,
)
from paint_by_example.errors import MaskError


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# Boxes


@pytest.mark.parametrize(("text", "box"), [("1,2,3,4", (1, 2, 3, 4)), (" 1, 2 ,30,-4", (1, 2, 30, -4))])
def test_parse_box(text, box):
    assert parse_box(text) == box


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "a,b,c,d", "1.5,2,3,4", "1 2 3 4", "1,,3,4", "9" * 5000 + ",1,1,1"]
)
def test_parse_box_refuses(text):
    with pytest.raises(MaskError, match="left,top,right,bottom"):
        parse_box(text)


def test_box_mask():
    mask = box_mask((1, 0, 3, 2), (4, 3))
    assert mask.astype(int).tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert box_mask((-5, -5, 2, 1), (4, 3)).astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert box_mask((-5, -5, 99, 99), (4, 3)).all()


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ((3, 0, 1, 2), "empty"),
        ((1, 2, 3, 2), "empty"),
        ((1, 1, 1, 2), "empty"),
        ((4, 0, 9, 2), "outside the source, which is 4 x 3"),
        ((-9, 0, 0, 2), "outside"),
        ((0, 3, 2, 9), "outside"),
    ],
)
def test_box_mask_refuses(box, found):
    with pytest.raises(MaskError, match=found) as caught:
        box_mask(box, (4, 3))
    assert ",".join(map(str, box)) in str(caught.value)


# Crops


@st.composite
def masks(draw, longest: int = 40):
    """Masks with at least one pixel, from a single stroke to the whole picture, in pictures down to 1 x N."""
    height, width = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    mask = np.zeros((height, width), np.bool_)
    mask[top:bottom, left:right] = True
    if draw(st.booleans()):  # a ragged one
        mask &= np.random.default_rng(draw(st.integers(0, 9))).random(mask.shape) < 0.7
        mask[top, left] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(masks())
def test_mask_bounds_are_tight(mask):
    left, top, right, bottom = mask_bounds(mask)
    assert mask[top:bottom, left:right].sum() == mask.sum()
    assert mask[top:bottom, left].any()
    assert mask[top:bottom, right - 1].any()
    assert mask[top, left:right].any()
    assert mask[bottom - 1, left:right].any()


def test_bounds_of_nothing():
    with pytest.raises(MaskError, match="nothing"):
        mask_bounds(np.zeros((3, 3), bool))


@settings(max_examples=100, deadline=None)
@given(masks(), st.floats(0, 3), st.integers(1, 60))
def test_context_crop(mask, context, minimum):
    left, top, right, bottom = context_crop(mask, context, minimum)
    side = right - left
    x0, y0, x1, y1 = mask_bounds(mask)
    assert bottom - top == side
    assert left <= x0 < x1 <= right
    assert top <= y0 < y1 <= bottom
    longest = max(x1 - x0, y1 - y0)
    wanted = min(max(minimum, longest * (1 + context)), max(mask.shape))
    assert wanted <= side < wanted + 1
    for low, high, length in ((left, right, mask.shape[1]), (top, bottom, mask.shape[0])):
        assert (low >= 0 and high <= length) if side <= length else (low <= 0 and high >= length)


def test_context_crop_by_default():
    mask = box_mask((400, 300, 600, 400), (1000, 800))
    left, top, right, bottom = context_crop(mask)
    assert 0.5 <= 200 / (right - left) <= 0.65
    assert (left + right, top + bottom) == (1000, 700)  # centred where there is room
    assert context_crop(box_mask((0, 790, 10, 800), (1000, 800)))[:2] == (0, 800 - MINIMUM_CROP)
    # No larger than the picture's longer side; where the shorter one does not suffice, the mask is in its middle.
    assert context_crop(box_mask((0, 0, 4, 4), (6, 6)), minimum=20) == (0, 0, 6, 6)
    assert context_crop(box_mask((0, 0, 10, 4), (10, 4))) == (0, -3, 10, 7)


@settings(max_examples=60, deadline=None)
@given(masks(12), st.tuples(*[st.integers(-15, 15)] * 2), st.integers(1, 30), st.integers(1, 30))
def test_crops_are_slices_and_repeat_the_border_outside(mask, start, width, height):
    image = noise(mask.shape[0], mask.shape[1])
    left, top = start
    crop = (left, top, left + width, top + height)
    pixels, selected = crop_image(image, crop), crop_mask(mask, crop)
    assert pixels.shape == (height, width, 3)
    for y in range(height):
        for x in range(width):
            nearest = min(max(top + y, 0), mask.shape[0] - 1), min(max(left + x, 0), mask.shape[1] - 1)
            assert (pixels[y, x] == image[nearest]).all()
            assert selected[y, x] == mask[nearest]  # a hole at the picture's edge goes on outside


def test_inside_crop_is_a_copy_of_the_slice():
    image = noise(9, 8)
    cropped = crop_image(image, (2, 3, 7, 9))
    np.testing.assert_array_equal(cropped, image[3:9, 2:7])
    assert not np.shares_memory(cropped, image)


# Resizing


@settings(max_examples=60, deadline=None)
@given(*[st.integers(1, 50)] * 4)
def test_resize_keeps_flat_pictures_flat(height, width, new_height, new_width):
    image = np.full((height, width, 3), (10, 200, 255), np.uint8)
    resized = resize(image, (new_width, new_height))
    assert resized.shape == (new_height, new_width, 3)
    assert (resized == (10, 200, 255)).all()


def test_resize_averages_when_it_shrinks():
    image = noise(64, 64)
    means = image.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, (8, 8)) - means).max() <= 1
    rows = image.reshape(64, 8, 8, 3).mean(axis=2).repeat(8, axis=0)  # one side shrinks while the other grows
    assert np.abs(resize(image, (8, 512))[3::8] - rows[3::8]).max() <= 32
    assert np.abs(resize(image, (8, 64)) - rows[::8]).max() <= 1


def test_resize_is_smooth_when_it_enlarges():
    ramp = np.repeat(np.arange(0, 160, 10, dtype=np.uint8)[None, :, None], 3, axis=2)
    steps = np.diff(resize(ramp, (160, 1))[0, 20:-20, 0].astype(int))
    assert steps.min() >= 0
    assert steps.max() <= 2  # the nearest pixel would make steps of 10


def test_resize_to_the_same_size_changes_nothing():
    image = noise(7, 5)
    np.testing.assert_array_equal(resize(image, (5, 7)), image)


@settings(max_examples=100, deadline=None)
@given(masks(60), st.integers(1, 60), st.integers(1, 60))
def test_resize_mask_loses_no_pixel(mask, width, height):
    resized = resize_mask(mask, (width, height))
    assert resized.dtype == np.bool_
    assert resized.shape == (height, width)
    for y, x in np.argwhere(mask):  # the centre of each pixel lies in a repainted one
        row, column = int((y + 0.5) * height / mask.shape[0]), int((x + 0.5) * width / mask.shape[1])
        assert resized[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].any()
        if height <= mask.shape[0] and width <= mask.shape[1]:
            assert resized[row, column]


def test_thin_strokes_survive_shrinking():
    mask = np.zeros((2000, 2000), np.bool_)
    mask[777] = True
    mask[:, 1234] = True
    small = resize_mask(mask, (64, 64))
    assert small[777 * 64 // 2000].all()
    assert small[:, 1234 * 64 // 2000].all()
    assert small.sum() == 127  # and they do not grow


def test_resize_mask_enlarges_by_whole_pixels():
    mask = noise(6, 7, 1)[..., 0] > 127
    np.testing.assert_array_equal(resize_mask(mask, (21, 18)), mask.repeat(3, axis=0).repeat(3, axis=1))


# Pasting back


@settings(max_examples=120, deadline=None)
@given(masks(), st.floats(0, 2), st.integers(1, 60), st.integers(0, 12), st.integers(1, 48))
def test_paste_back_keeps_what_is_not_masked(mask, context, minimum, feather, side):
    source, painted = noise(mask.shape[0], mask.shape[1], seed=1), noise(side, side, seed=2)
    before = source.copy()
    crop = context_crop(mask, context, minimum)
    result = paste_back(source, painted, mask, crop, feather)
    np.testing.assert_array_equal(source, before)
    np.testing.assert_array_equal(result[~mask], source[~mask])
    if feather == 0:
        resized = resize(painted, (crop[2] - crop[0], crop[3] - crop[1]))
        for y, x in np.argwhere(mask):
            assert (result[y, x] == resized[y - crop[1], x - crop[0]]).all()


@settings(max_examples=80, deadline=None)
@given(masks(), st.integers(1, 12))
def test_feather_changes_every_masked_pixel_and_paints_the_middle(mask, feather):
    black, white = np.zeros((*mask.shape, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    result = paste_back(black, white, mask, context_crop(mask, 0.5, 1), feather)[..., 0]
    assert (result[mask] >= 255 // (feather + 1)).all()
    assert result.max() == 255


def test_feather_rises_from_the_edge_inwards():
    mask = box_mask((10, 10, 50, 50), (60, 60))
    black, white = np.zeros((60, 60, 3), np.uint8), np.full((60, 60, 3), 255, np.uint8)
    for crop in ((0, 0, 60, 60), (10, 10, 50, 50)):  # the second leaves no room around the mask
        row = paste_back(black, white, mask, crop, feather=4)[30, :, 0]
        assert row[8:16].tolist() == [0, 0, 51, 102, 153, 204, 255, 255]
        assert row.tolist() == row[::-1].tolist()


def test_thin_stroke_is_painted_in_full_beside_a_feathered_blob():
    mask = box_mask((10, 10, 40, 40), (100, 50))
    mask[25, 40:90] = True
    black, white = np.zeros((50, 100, 3), np.uint8), np.full((100, 100, 3), 255, np.uint8)
    result = paste_back(black, white, mask, (0, -25, 100, 75), feather=6)[..., 0]
    assert (result[25, 60:90] == 255).all()
    assert result[10, 25] == round(255 / 7)
    assert result[25, 25] == 255


def test_no_soft_edge_at_the_edge_of_the_picture():
    whole = np.ones((20, 30), np.bool_)
    black, white = np.zeros((20, 30, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert paste_back(black, white, whole, context_crop(whole), feather=5).min() == 255
    half = box_mask((0, 0, 15, 20), (30, 20))
    result = paste_back(black, white, half, context_crop(half), feather=5)[..., 0]
    assert (result[:, :9] == 255).all()
    assert (result[:, 14] < 60).all()


@pytest.mark.parametrize("crop", [(0, 0, 5, 5), (3, 2, 7, 6), (2, 3, 6, 7), (1, 2, 5, 6), (2, 1, 6, 5)])
def test_paste_back_refuses_a_crop_that_cuts_the_mask(crop):
    source, mask = noise(10, 10), box_mask((2, 2, 6, 6), (10, 10))
    with pytest.raises(ValueError, match=re.escape(f"outside the crop {crop}")):
        paste_back(source, noise(5, 5), mask, crop)


def test_paste_back_with_an_empty_mask_is_a_copy():
    source = noise(10, 10)
    result = paste_back(source, noise(5, 5, seed=1), np.zeros((10, 10), bool), (0, 0, 5, 5), feather=3)
    np.testing.assert_array_equal(result, source)
    assert result is not source
