"""Drawings of what stood there, of pictures whose contours are known."""

import cv2
import numpy as np
import pytest
from skimage import data

from paint_by_example import structure
from paint_by_example.errors import UserError
from paint_by_example.structure import Structure, edges, parse_structure, sketch, soft_edges


def square(light: int = 200, dark: int = 60) -> np.ndarray:
    picture = np.full((64, 64, 3), dark, np.uint8)
    picture[16:48, 16:48] = light
    return picture


@pytest.mark.parametrize("draw", [edges, soft_edges])
def test_a_squares_outline_is_found_where_it_is(draw):
    drawn = draw(square())
    assert drawn.shape == (64, 64, 3)
    assert drawn.dtype == np.uint8
    assert np.ptp(drawn, axis=2).max() == 0
    rows, columns = np.nonzero(drawn[..., 0] > 127)
    from_edge = np.minimum(np.abs(rows - 15.5), np.abs(rows - 47.5))
    from_edge = np.minimum(from_edge, np.minimum(np.abs(columns - 15.5), np.abs(columns - 47.5)))
    assert len(rows) >= 4 * 28
    assert from_edge.max() <= 2.5
    assert drawn[32, 32, 0] == drawn[4, 4, 0] == 0


@pytest.mark.parametrize("draw", [edges, soft_edges])
def test_a_picture_in_half_the_light_has_the_same_contours(draw):
    picture = cv2.resize(data.astronaut(), (128, 128), interpolation=cv2.INTER_AREA)
    bright, dim = (draw(one).astype(int)[..., 0] for one in (picture, picture // 2))
    assert np.abs(bright - dim).mean() < 0.15 * bright.mean()


@pytest.mark.parametrize("draw", [edges, soft_edges])
def test_a_flat_picture_has_no_contours(draw):
    rng = np.random.default_rng(0)
    assert not draw(np.full((40, 40, 3), 90, np.uint8)).any()
    assert not draw(rng.integers(90, 93, (40, 40, 3), dtype=np.uint8)).any()  # but for its grain


def test_the_clearer_a_contour_the_brighter():
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, 32:64], picture[:, 64:] = 200, 230
    drawn = soft_edges(picture)[32, :, 0]
    strong, faint = drawn[28:37].max(), drawn[60:69].max()
    assert strong == 255
    assert 10 < faint < 100
    assert drawn[48] == 0


def test_a_contour_between_colours_of_one_brightness_is_found():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32], picture[:, 32:] = (150, 0, 0), (0, 76, 0)
    assert len(np.unique(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY))) == 1
    assert soft_edges(picture)[32, 28:36].max() == 255


def test_texture_is_fainter_than_an_outline():
    rng = np.random.default_rng(0)
    picture = np.full((96, 96, 3), 90, np.int64)
    picture[24:72, 24:72] = 190
    picture += rng.integers(-25, 25, (96, 96, 1))
    drawn = soft_edges(picture.astype(np.uint8))[..., 0]
    assert drawn[40:56, 23:26].max(1).mean() > 15 * drawn[30:66, 30:66].mean()


def test_a_drawing_on_paper_is_inverted_and_one_on_black_is_not():
    drawing = np.zeros((20, 30, 3), np.uint8)
    drawing[10, 5:25] = 255
    assert np.array_equal(sketch(255 - drawing), drawing)
    assert np.array_equal(sketch(drawing), drawing)


def test_the_strongest_of_neighbours_is_kept_along_a_direction():
    ridge = np.array([[0, 1, 3, 2, 0]] * 3, np.float32)
    across = structure.is_maximum(ridge, np.zeros_like(ridge))
    assert across[1].tolist() == [False, False, True, False, False]


def test_a_structure_of_the_command_line():
    assert parse_structure("edges") == Structure("edges")
    assert parse_structure("sketch=a=b.png") == Structure("sketch", "a=b.png")
    assert parse_structure("pose", "models") == Structure("pose", models="models")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("depth", "unknown structure 'depth'; choose one of edges, soft-edges, pose, sketch=FILE"),
        ("sketch", "the structure 'sketch' cannot be; it is edges, soft-edges, pose or sketch=FILE"),
        ("edges=a.png", "the structure 'edges=a.png' cannot be; it is edges, soft-edges, pose or sketch=FILE"),
    ],
)
def test_what_is_no_structure(text, message):
    with pytest.raises(UserError, match=message):
        parse_structure(text)


def test_a_sketch_without_a_drawing():
    with pytest.raises(UserError, match="the structure sketch needs a drawing"):
        Structure("sketch")
    with pytest.raises(UserError, match="the structure edges needs no models; they go with pose"):
        Structure("edges", models="models")
    with pytest.raises(UserError, match="choose one of edges, soft-edges, pose, sketch"):
        Structure("depth")  # type: ignore[arg-type]
