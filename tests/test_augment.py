"""Exemplar augmentation."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paint_by_example.data import augment as module
from paint_by_example.data.augment import (
    ANCHOR_SHIFT,
    ELASTIC_STRENGTH,
    MAX_DEGREES,
    augment,
    draw_anchors,
    rotate,
    warp_affine,
    warp_elastic,
)


def noise(height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """A picture that looks like none of its own transforms."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_it_mirrors_rotates_blurs_and_warps_as_often_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, list[Any]] = {"rotate": [], "warp_affine": [], "warp_elastic": []}

    def record(name: str) -> Any:
        def leave_alone(*arguments: Any) -> np.ndarray:
            calls[name].append(arguments)
            image: np.ndarray = next(a for a in arguments if isinstance(a, np.ndarray))
            return image

        return leave_alone

    for name in calls:
        monkeypatch.setattr(module, name, record(name))
    image, draws = noise(16, 16), 600
    rng = np.random.default_rng(0)
    flipped, blurred = 0, 0
    for _ in range(draws):
        result = augment(rng, image)
        sharp = np.array_equal(result, image) or np.array_equal(result, image[:, ::-1])
        blurred += not sharp
        # a blurred picture is still nearer to the side it shows
        flipped += np.abs(result - image.astype(float)).sum() > np.abs(result - image[:, ::-1].astype(float)).sum()
    assert flipped / draws == pytest.approx(0.5, abs=0.08)
    assert blurred / draws == pytest.approx(0.3, abs=0.08)
    assert len(calls["rotate"]) / draws == pytest.approx(0.5, abs=0.08)
    assert len(calls["warp_affine"]) / draws == pytest.approx(0.3, abs=0.08)
    assert len(calls["warp_elastic"]) == len(calls["warp_affine"])
    angles = np.array([degrees for _, degrees in calls["rotate"]])
    assert MAX_DEGREES * 0.9 < np.abs(angles).max() <= MAX_DEGREES
    assert abs(angles.mean()) < 3


def test_flip_is_a_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, chance in {"ROTATE": 0.0, "BLUR": 0.0, "ELASTIC": 0.0}.items():
        monkeypatch.setattr(module, name, chance)
    image = noise(3, 4)
    mirrored = [list(reversed(row)) for row in image.tolist()]
    assert augment(np.random.default_rng(0), image, flip=1.0).tolist() == mirrored
    assert np.array_equal(augment(np.random.default_rng(0), image, flip=0.0), image)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(8, 80), st.integers(8, 80))
def test_shape_and_type_are_kept_and_the_input_is_left_alone(seed: int, height: int, width: int) -> None:
    image = noise(height, width)
    before = image.copy()
    result = augment(np.random.default_rng(seed), image)
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(image, before)


def test_same_randomness_same_result() -> None:
    image = noise()
    results = [augment(np.random.default_rng(seed), image) for seed in (*range(8), *range(8))]
    assert all(np.array_equal(first, again) for first, again in zip(results[:8], results[8:], strict=True))
    assert len({result.tobytes() for result in results}) > 4


def test_rotation_by_nothing_changes_nothing() -> None:
    image = noise()
    assert np.array_equal(rotate(image, 0), image)


@pytest.mark.parametrize("size", [(64, 64), (63, 63)])
def test_rotation_is_counter_clockwise_about_the_centre(size: tuple[int, int]) -> None:
    image = noise(*size)
    assert np.array_equal(rotate(image, 90), np.rot90(image))


def test_anchors_lie_around_the_centre_and_move_at_random_but_not_too_far() -> None:
    rng = np.random.default_rng(0)
    moves = []
    for _ in range(200):
        anchors, moved = draw_anchors(rng, (224, 300), strength=0.5)
        assert anchors == pytest.approx(np.array([(186.0, 224.0), (186.0, 76.0), (38.0, 76.0)]))
        moves.append(moved - anchors)
    largest = np.abs(moves).max()
    assert 0.95 * 25 < largest <= 25  # half of the authors' 50 pixels, at their size
    assert pytest.approx(50 / 224) == ANCHOR_SHIFT


@pytest.mark.parametrize("seed", range(5))
def test_affine_warp_takes_each_anchor_where_it_says(seed: int) -> None:
    size = 224
    anchors, moved = draw_anchors(np.random.default_rng(seed), (size, size), strength=0.5)
    y, x = np.mgrid[:size, :size]
    for colour, ((from_x, from_y), to) in enumerate(zip(anchors, moved, strict=True)):
        spot = np.zeros((size, size, 3), np.uint8)
        spot[(x - from_x) ** 2 + (y - from_y) ** 2 < 6**2, colour] = 255  # a disc on the anchor
        warped = warp_affine(np.random.default_rng(seed), spot, strength=0.5)
        weight = warped[..., colour].astype(float)
        near = np.hypot(x - to[0], y - to[1]) < 24  # not its mirror image beyond the border
        weight = weight * near
        found = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
        assert found == pytest.approx(tuple(to), abs=1.0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32), st.floats(1, 2))
def test_elastic_warp_moves_pixels_but_not_too_far(seed: int, strength: float) -> None:
    size = 120
    y, x = np.mgrid[:size, :size]
    places = np.dstack([x, y, np.zeros_like(x)]).astype(np.uint8)  # each pixel's colour is its place
    moved = warp_elastic(np.random.default_rng(seed), places, strength).astype(float)[..., :2]
    distance = np.abs(moved - places[..., :2])
    bound = strength * size * ELASTIC_STRENGTH
    assert bound - 1 <= distance.max() <= bound + 0.51  # rounded to whole colours
    # smooth: neighbours move alike
    steps = np.abs(np.diff(moved - places[..., :2], axis=0)).max()
    assert steps <= bound / 2 + 2  # rounded; white noise would step by twice the bound


def test_without_strength_warps_change_nothing() -> None:
    image = noise()
    assert np.array_equal(warp_elastic(np.random.default_rng(0), image, 0.0), image)
    assert np.array_equal(warp_affine(np.random.default_rng(0), image, 0.0), image)
