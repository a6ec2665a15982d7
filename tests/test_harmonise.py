"""Harmonising against what is known: a hole that holds the source itself, in another light."""

import cv2
import numpy as np
import pytest
from skimage import data

from paint_by_example.errors import UserError
from paint_by_example.harmonise import FAINT, check_harmonise, fill, fill_between, harmonise

SOURCE = cv2.resize(data.coffee()[:400, 100:500], (96, 96), interpolation=cv2.INTER_AREA)
HOLES = {"inside": (20, 60, 30, 71), "at an edge": (0, 50, 30, 71), "at three": (0, 96, 50, 96)}


def hole(name: str) -> np.ndarray:
    top, bottom, left, right = HOLES[name]
    mask = np.zeros(SOURCE.shape[:2], bool)
    mask[top:bottom, left:right] = True
    return mask


def error(result: np.ndarray, mask: np.ndarray) -> float:
    return float(np.abs(result.astype(int) - SOURCE)[mask].mean())


@pytest.mark.parametrize("name", HOLES)
def test_poisson_takes_light_from_the_surroundings(name: str):
    mask = hole(name)
    lit = np.where(mask[..., None], (SOURCE * 0.85 + 30).astype(np.uint8), SOURCE)
    assert error(harmonise("poisson", SOURCE, lit, mask), mask) < 0.6 * error(lit, mask)


@pytest.mark.parametrize("name", HOLES)
def test_poisson_leaves_what_fits_where_it_is(name: str):
    mask = hole(name)
    assert error(harmonise("poisson", SOURCE, SOURCE, mask), mask) <= 1  # a place further it is 7


def test_colours_go_half_way_to_the_surroundings():
    mask = hole("inside")
    rng = np.random.default_rng(0)
    source = rng.normal(150, 20, SOURCE.shape).clip(0, 255).astype(np.uint8)
    result = np.where(mask[..., None], rng.normal(70, 20, SOURCE.shape).clip(0, 255).astype(np.uint8), source)
    moved = harmonise("colour", source, result, mask)[mask]
    assert moved.mean() == pytest.approx(110, abs=5)
    assert moved.std() == pytest.approx(20, abs=5)


def test_colours_that_are_the_surroundings_stay_as_they_are():
    tile = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    tile[0, :2] = [[0] * 3, [255] * 3]
    picture, mask = np.tile(tile, (6, 6, 1)), np.zeros((48, 48), bool)
    mask[8:24, 16:40] = True
    harmonised = harmonise("colour", picture, picture, mask)
    assert np.abs(harmonised.astype(int) - picture).max() <= 1
    assert (harmonised == picture)[(picture == 0).all(2) | (picture == 255).all(2)].all()


@pytest.mark.parametrize("name", ["colour", "poisson"])
def test_outside_of_the_hole_nothing_changes(name):
    rng = np.random.default_rng(1)
    mask = rng.random(SOURCE.shape[:2]) > 0.7
    result = np.where(mask[..., None], rng.integers(0, 256, SOURCE.shape, dtype=np.uint8), SOURCE)
    harmonised = harmonise(name, SOURCE, result, mask)
    assert (harmonised[~mask] == SOURCE[~mask]).all()
    assert (harmonised[mask] != result[mask]).any()
    everything = np.ones_like(mask)
    assert (harmonise(name, SOURCE, result, everything) == result).all()
    assert (harmonise(name, SOURCE, SOURCE, ~everything) == SOURCE).all()


def test_surroundings_go_on_into_a_hole():
    mask, picture = hole("inside"), np.full(SOURCE.shape, 60, np.uint8)
    picture[:, SOURCE.shape[1] // 2 :] = 200
    filled = fill(np.where(mask[..., None], np.uint8(0), picture), mask)
    assert (filled[~mask] == picture[~mask]).all()
    assert set(np.unique(filled[mask])) <= set(range(50, 211))
    assert np.abs(filled[mask].astype(int) - picture[mask]).mean() < 15


def test_a_way_that_is_unknown():
    assert check_harmonise(None) is None
    assert check_harmonise("poisson") == "poisson"
    with pytest.raises(UserError, match="unknown way to harmonise 'blur'; choose one of colour, poisson"):
        check_harmonise("blur")


def two_walls() -> tuple[np.ndarray, np.ndarray]:
    """A wall that is dark to the left and light to the right, and the line between both."""
    picture, lines = np.full((40, 48, 3), 40, np.uint8), np.zeros((40, 48), np.float32)
    picture[:, 24:] = 200
    lines[:, 23:25] = 1
    return picture, lines


def test_a_line_keeps_what_lies_on_either_side_of_it_apart():
    (picture, lines), mask = two_walls(), np.zeros((40, 48), bool)
    mask[6:34, 8:40] = True
    painted_over = np.where(mask[..., None], np.uint8(0), picture)
    filled = fill_between(painted_over, mask, lines).astype(int)
    off_the_line = mask & (lines == 0)
    assert np.abs(filled - picture)[off_the_line].mean() < 1
    without = fill_between(painted_over, mask, 0 * lines).astype(int)
    assert np.abs(without - picture)[off_the_line].mean() > 10


@pytest.mark.parametrize("where", [np.s_[5:20, 7:30], np.s_[0:20, 7:30], np.s_[5:, :30], np.s_[0:1, 0:1]])
def test_without_lines_a_slope_goes_on(where):
    """A plane is where diffusion comes to rest, but at the picture's edge, which lets nothing through."""
    x = np.arange(48)
    picture = np.repeat(np.repeat((20 + 4 * x)[None, :, None], 40, 0), 3, 2).astype(np.uint8)
    mask = np.zeros((40, 48), bool)
    mask[where] = True
    filled = fill_between(np.where(mask[..., None], np.uint8(255), picture), mask, np.zeros(mask.shape))
    assert (filled[~mask] == picture[~mask]).all()
    inside = mask if where == np.s_[5:20, 7:30] else np.zeros_like(mask)
    assert np.abs(filled.astype(int) - picture)[inside].sum() == 0
    assert filled[mask].min() >= picture.min()
    assert filled[mask].max() <= picture.max()


def test_filling_between_lines_solves_the_equations_of_diffusion():
    rng = np.random.default_rng(3)
    source, mask = rng.integers(0, 256, (12, 15, 3), dtype=np.uint8), rng.random((12, 15)) < 0.7
    lines = rng.random((12, 15)) ** 3
    open_ = 1 / (1 + (lines / FAINT) ** 2)
    places = [tuple(place) for place in np.argwhere(np.ones_like(mask))]
    matrix, known = np.eye(len(places)), source.reshape(-1, 3).astype(float)
    for number, (y, x) in enumerate(places):
        if not mask[y, x]:
            continue
        matrix[number, number], known[number] = 0, 0
        for other in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if other in places:
                passes = min(open_[y, x], open_[other])
                matrix[number, number] += passes
                matrix[number, places.index(other)] -= passes
    expected = np.linalg.solve(matrix, known).reshape(12, 15, 3)
    assert np.abs(fill_between(source, mask, lines) - expected).max() <= 0.51


def test_a_hole_that_is_none_is_not_filled():
    picture, lines = two_walls()
    assert (fill_between(picture, np.zeros(lines.shape, bool), lines) == picture).all()
