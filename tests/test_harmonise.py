"""Harmonising against what is known: a hole that holds the source itself, in another light."""

import cv2
import numpy as np
import pytest
from skimage import data

from paint_by_example.errors import UserError
from paint_by_example.harmonise import check_harmonise, fill, harmonise

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
