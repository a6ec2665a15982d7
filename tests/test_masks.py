"""Mask shapes: what a box becomes, in numbers that can be worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paint_by_example.data.masks import (
    JITTER,
    arbitrary_mask,
    bezier_outline,
    draw_mask,
    extend_box,
    jitter_points,
    random_mask,
    rectangle_mask,
    released_outline,
)
from paint_by_example.images import Box, Size

TIGHT, EXTENDED, SIZE = (40, 60, 120, 100), (20, 30, 180, 110), (200, 150)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Box, Size]:
    width, height = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return (left, top, right, bottom), (width, height)


@given(boxes(), st.integers(0, 2**32), st.floats(0, 1))
def test_extended_box_contains_the_box_and_grows_by_no_more_than_its_share(
    case: tuple[Box, Size], seed: int, share: float
) -> None:
    (left, top, right, bottom), (width, height) = case
    x0, y0, x1, y1 = extend_box(np.random.default_rng(seed), case[0], case[1], share)
    assert left - share * left <= x0 <= left
    assert top - share * top <= y0 <= top
    assert right <= x1 <= right + share * (width - right)
    assert bottom <= y1 <= bottom + share * (height - bottom)


def test_extension_reaches_both_ends_of_its_range() -> None:
    rng = np.random.default_rng(0)
    lefts = [extend_box(rng, (10, 0, 20, 5), (20, 5))[0] for _ in range(200)]
    assert set(lefts) == {6, 7, 8, 9, 10}  # 0.4 of the 10 pixels next to the box


def test_rectangle_is_the_box() -> None:
    mask = rectangle_mask((2, 1, 5, 3), (6, 4))
    expected = [[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]]
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


def test_outline_has_twenty_points_a_side_from_corner_to_corner_of_the_tight_box() -> None:
    outline = bezier_outline(TIGHT, EXTENDED)
    left, top, right, bottom = TIGHT
    assert outline.shape == (80, 2)
    assert outline[::20].tolist() == [[left, top], [right, top], [right, bottom], [left, bottom]]


def test_outline_bulges_by_half_the_extension_in_the_middle_of_each_side() -> None:
    top, right, bottom, left = bezier_outline(TIGHT, EXTENDED)[10::20]
    assert top.tolist() == [80, 60 - 30 / 2]
    assert right.tolist() == [120 + 60 / 2, 80]
    assert bottom.tolist() == [80, 100 + 10 / 2]
    assert left.tolist() == [40 - 20 / 2, 80]


@given(boxes(), st.integers(0, 2**32))
def test_outline_stays_between_the_two_boxes(case: tuple[Box, Size], seed: int) -> None:
    box, size = case
    extended = extend_box(np.random.default_rng(seed), box, size)
    x, y = bezier_outline(box, extended).T
    eps = 1e-9
    assert extended[0] - eps <= x.min() <= box[0]
    assert extended[1] - eps <= y.min() <= box[1]
    assert box[2] - (box[2] - box[0]) / 2 <= x.max() <= extended[2] + eps
    # each point lies on the border of the tight box or outside it
    assert not ((x > box[0] + eps) & (x < box[2] - eps) & (y > box[1] + eps) & (y < box[3] - eps)).any()


def test_every_point_moves_by_one_to_five_pixels_on_both_axes_and_either_way() -> None:
    points = np.zeros((4000, 2))
    moves = jitter_points(np.random.default_rng(0), points)
    for axis in moves.T:
        steps, counts = np.unique(axis, return_counts=True)
        assert steps.tolist() == [-5, -4, -3, -2, -1, 1, 2, 3, 4, 5]
        assert np.all(np.abs(counts - 400) < 100)  # five standard deviations of a uniform draw
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.1  # the axes are drawn apart


@given(st.integers(0, 2**32), st.integers(1, 9), st.floats(0.01, 4))
def test_a_step_of_the_jitter_is_as_long_as_asked(seed: int, jitter: int, pixel: float) -> None:
    points = np.arange(40.0).reshape(20, 2)
    steps = np.abs(jitter_points(np.random.default_rng(seed), points, jitter, pixel) - points) / pixel
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    assert 1 <= np.rint(steps).min() <= np.rint(steps).max() <= jitter


@given(boxes(), st.integers(0, 2**32))
def test_arbitrary_mask_is_never_empty_and_stays_near_the_extended_box(case: tuple[Box, Size], seed: int) -> None:
    box, size = case
    rng = np.random.default_rng(seed)
    extended = extend_box(rng, box, size)
    mask = arbitrary_mask(rng, box, extended, size)
    assert mask.shape == (size[1], size[0])
    assert set(np.unique(mask)) <= {0, 1}
    rows, columns = np.nonzero(mask)
    assert len(rows) > 0
    assert columns.min() >= extended[0] - JITTER
    assert rows.min() >= extended[1] - JITTER
    assert columns.max() <= extended[2] + JITTER
    assert rows.max() <= extended[3] + JITTER


def test_arbitrary_mask_covers_what_lies_deeper_in_the_box_than_the_jitter() -> None:
    for seed in range(20):
        mask = arbitrary_mask(np.random.default_rng(seed), TIGHT, EXTENDED, SIZE)
        assert mask[60 + JITTER : 100 - JITTER, 40 + JITTER : 120 - JITTER].all()
        assert mask.sum() < rectangle_mask(EXTENDED, SIZE).sum()


def test_the_outline_has_as_many_points_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paint_by_example.data.masks.jitter_points", lambda rng, points, *_: points)
    mask = arbitrary_mask(np.random.default_rng(0), TIGHT, EXTENDED, SIZE, points=1)
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, rectangle_mask((40, 60, 121, 101), SIZE))  # its corners, joined by straight lines


def test_a_box_that_folds_into_nothing_gets_a_rectangle(monkeypatch: pytest.MonkeyPatch) -> None:
    outside = np.full((80, 2), -10.0)
    monkeypatch.setattr("paint_by_example.data.masks.jitter_points", lambda *_: outside)
    mask = arbitrary_mask(np.random.default_rng(0), (0, 0, 2, 1), (0, 0, 2, 1), (5, 5))
    assert mask.tolist() == rectangle_mask((0, 0, 2, 1), (5, 5)).tolist()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_share_of_arbitrary_shapes_is_as_asked(share: float) -> None:
    rng, draws = np.random.default_rng(0), 400
    arbitrary = 0
    for _ in range(draws):
        mask = random_mask(rng, (10, 10, 30, 30), (40, 40), share)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        arbitrary += not mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert abs(arbitrary / draws - share) <= (0.1 if share == 0.5 else 0)


@settings(max_examples=30)
@given(boxes(), st.integers(0, 2**32))
def test_a_rectangular_mask_is_the_extended_box(case: tuple[Box, Size], seed: int) -> None:
    box, size = case
    extended = extend_box(np.random.default_rng(seed), box, size)
    assert np.array_equal(random_mask(np.random.default_rng(seed), box, size, 0.0), rectangle_mask(extended, size))
    drawn = draw_mask(np.random.default_rng(0), box, extended, size, 0.0)
    assert np.array_equal(drawn, rectangle_mask(extended, size))


def test_same_randomness_same_mask() -> None:
    first, again, other = (random_mask(np.random.default_rng(seed), TIGHT, SIZE, 1.0) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_released_outline_drops_most_points_of_the_second_halves() -> None:
    counts = [
        len(released_outline(TIGHT, extend_box(np.random.default_rng(seed), TIGHT, SIZE), 18)) for seed in range(95)
    ]
    assert 25 <= min(counts) < max(counts) <= 65  # the authors' code: 33 to 60 with another box, 53 on average
    assert 45 <= np.mean(counts) <= 58
    assert 4 <= len(released_outline(TIGHT, TIGHT, 18)) <= 20  # sides that bulge nowhere keep a few


def test_the_released_outline_lies_on_the_same_curves() -> None:
    every = bezier_outline(TIGHT, EXTENDED)
    for point in released_outline(TIGHT, EXTENDED, 18):
        assert np.abs(every - point).sum(axis=1).min() < 1e-9


def test_points_may_stay_where_asked() -> None:
    moves = jitter_points(np.random.default_rng(0), np.zeros((500, 2)), may_stay=True)
    assert set(moves.ravel()) == set(range(-5, 6))
