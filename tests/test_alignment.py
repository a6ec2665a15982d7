"""Where an exemplar's map is laid, by lines, against objects whose place is known."""

from functools import partial

import cv2
import numpy as np
import pytest
import torch

from paint_by_example import alignment
from paint_by_example.alignment import SHIFT, STRETCH, Lines, align, moderate
from paint_by_example.images import image_tensor
from paint_by_example.structure import edges, soft_edges

SIDE = 128
MASK = np.zeros((SIDE, SIDE), bool)
MASK[24:108, 20:110] = True
OWN = np.eye(2, 3, dtype=np.float32)


def scene(transform: np.ndarray = OWN) -> np.ndarray:
    """A cup with a handle, a stripe and a spot on a plain wall, seen through a transform as `align` finds it."""
    picture = np.full((SIDE, SIDE, 3), (60, 90, 120), np.uint8)
    cup = picture.copy()
    cv2.ellipse(cup, (86, 66), (14, 18), 0, 0, 360, (200, 180, 150), 5)
    cv2.rectangle(cup, (38, 38), (80, 94), (210, 190, 160), -1)
    cv2.rectangle(cup, (38, 50), (80, 58), (150, 40, 40), -1)
    cv2.circle(cup, (52, 78), 7, (30, 60, 40), -1)
    seen = cv2.warpAffine(
        cup, transform, (SIDE, SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(seen, np.uint8)


def about(angle: float = 0.0, stretch: tuple[float, float] = (1.0, 1.0), shift: tuple[float, float] = (0.0, 0.0)):
    """A transform about the picture's middle."""
    turn, middle = np.deg2rad(angle), np.array([SIDE, SIDE]) / 2 - 0.5
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(stretch)
    return np.column_stack([linear, middle - linear @ middle + shift]).astype(np.float32)


def lines_of(picture: np.ndarray, draw=soft_edges) -> np.ndarray:
    return np.asarray(draw(picture)[..., 0] / 255, np.float32)


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Between two transforms, at the cup's corners, pixels at most."""
    corners = np.array([[38, 38, 1], [80, 38, 1], [80, 94, 1], [38, 94, 1]], np.float32).T
    return float(np.linalg.norm((one - other) @ corners, axis=0).max())


@pytest.mark.parametrize("draw", [edges, soft_edges])
@pytest.mark.parametrize(
    "truth", [about(9), about(-8, (1.15, 0.9)), about(0, (0.85, 1.2), (4, -3)), about(5, shift=(-6, 5))]
)
def test_an_object_is_laid_where_its_lines_are(truth: np.ndarray, draw) -> None:
    found = align(scene(), lines_of(scene(truth), draw), MASK)
    assert found is not None
    assert distance(found, truth) < 0.25 * distance(OWN, truth)
    assert distance(found, truth) < 2.0


@pytest.mark.parametrize("draw", [edges, soft_edges])
def test_the_object_is_drawn_as_the_drawing_is(draw, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, used = lines_of(scene(), draw), []

    def note(one, picture: np.ndarray) -> np.ndarray:
        used.append(one)
        return np.asarray(one(picture))

    for one in (edges, soft_edges):
        monkeypatch.setattr(alignment, one.__name__, partial(note, one))
    align(scene(), drawing, MASK)
    assert used == [draw]


def test_lines_as_they_are_leave_it_where_it_is() -> None:
    found = align(scene(), lines_of(scene()), MASK)
    assert found is None or distance(found, OWN) < 0.3


def test_of_a_larger_picture_it_is_the_same() -> None:
    truth = about(9, (1.1, 0.95))

    def twice(x: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.resize(x, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC), np.uint8)

    one = align(scene(), lines_of(scene(truth)), MASK)
    two = align(twice(scene()), lines_of(twice(scene(truth))), np.kron(MASK, np.ones((2, 2), bool)))
    assert one is not None
    assert two is not None
    np.testing.assert_allclose(one[:, :2], two[:, :2], atol=0.03)


def test_without_lines_there_is_nothing_to_follow() -> None:
    assert align(scene(), np.zeros((SIDE, SIDE), np.float32), MASK) is None
    assert align(np.full((SIDE, SIDE, 3), 90, np.uint8), lines_of(scene()), MASK) is None


def test_lines_outside_of_the_region_do_not_count() -> None:
    truth, elsewhere = about(8), np.zeros((SIDE, SIDE), np.float32)
    elsewhere[:20] = 1
    wanted = lines_of(scene(truth)) * MASK
    found, disturbed = (align(scene(), x, MASK) for x in (wanted, np.maximum(wanted, elsewhere)))
    assert found is not None
    assert disturbed is not None
    np.testing.assert_array_equal(found, disturbed)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_lines_the_object_stays_about_what_and_where_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawing = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(4):
        start, end = rng.integers(0, SIDE, (2, 2)).tolist()
        cv2.line(drawing, start, end, 255, 2)
    found = align(scene(), (drawing / 255).astype(np.float32), MASK)
    assert found is None or moderate(found, MASK.shape)


@pytest.mark.parametrize(
    ("transform", "is_moderate"),
    [
        (OWN, True),
        (about(30, (STRETCH * 0.99, 1)), True),
        (about(0, (STRETCH * 1.01, 1)), False),
        (about(0, (1, 0.99 / STRETCH)), False),
        (about(0, (-1, 1)), False),  # mirrored
        (about(shift=(SHIFT * SIDE * 0.99, 0)), True),
        (about(shift=(0, -SHIFT * SIDE * 1.01)), False),
        (np.full((2, 3), np.nan, np.float32), False),
    ],
)
def test_what_is_moderate(transform: np.ndarray, is_moderate: bool) -> None:
    assert moderate(transform, (SIDE, SIDE)) is is_moderate


def laid_cup() -> torch.Tensor:
    """As a map lies: colours times alpha, and alpha, (1, 4, SIDE, SIDE)."""
    picture = scene()
    alpha = torch.from_numpy((np.abs(picture.astype(int) - (60, 90, 120)).sum(2) > 30).astype(np.float32))[None, None]
    return torch.cat([image_tensor(picture) * alpha, alpha], dim=1)


def lines_for(truth: np.ndarray, count: int = 1, scale: float = 1.0) -> Lines:
    source, mask = image_tensor(scene(truth)), torch.from_numpy(MASK)[None, None].float()
    drawing = torch.from_numpy(lines_of(scene(truth)))[None, None]
    source, mask, drawing = (x.repeat(count, 1, 1, 1) for x in (source, mask, drawing))
    lines = Lines.of(source, mask, drawing, scale)
    assert lines is not None
    return lines


def test_a_map_is_compared_in_the_surroundings_it_will_have() -> None:
    """The wall is continued into the hole first: what stood there is not looked at."""
    truth = about(9)
    (place,) = lines_for(truth).places(torch.zeros(1, 1, 8), laid_cup())
    assert distance(place.numpy(), truth) < 2.0


def test_the_scale_says_how_far_it_goes() -> None:
    truth = about(9)
    wall = image_tensor(scene()), torch.ones(1, 1, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    assert Lines.of(*wall, 0.0) is None
    assert Lines.of(*wall, -1.0) is None
    places = {s: lines_for(truth, scale=s).places(torch.zeros(1, 1, 8), laid_cup())[0] for s in (0.5, 1.0, 3.0)}
    assert torch.equal(places[1.0], places[3.0])
    torch.testing.assert_close(places[0.5] - torch.eye(2, 3), (places[1.0] - torch.eye(2, 3)) / 2)


def test_a_place_is_looked_for_once_for_each_source_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def look(self: Lines, number: int, laid: torch.Tensor) -> np.ndarray:
        looked.append(number)
        return OWN

    monkeypatch.setattr(Lines, "_place", look)
    lines = lines_for(about(6), count=2)
    tokens, laid = torch.stack([torch.zeros(1, 8), torch.ones(1, 8)]), laid_cup().repeat(2, 1, 1, 1)
    for _ in range(3):
        lines.places(tokens, laid)
    lines.places(torch.cat([tokens, tokens]), torch.cat([laid, laid]))
    assert looked == [0, 1]
    lines.places(tokens.flip(0), laid)
    assert looked == [0, 1, 0, 1]


def test_an_empty_map_and_a_hole_without_surroundings_stay() -> None:
    lines = lines_for(about(9))
    assert torch.equal(lines.places(torch.zeros(1, 1, 8), torch.zeros(1, 4, SIDE, SIDE))[0], torch.eye(2, 3))
    everywhere = Lines.of(image_tensor(scene()), torch.ones(1, 1, SIDE, SIDE), torch.ones(1, 1, SIDE, SIDE), 1.0)
    assert everywhere is not None
    assert torch.equal(everywhere.places(torch.zeros(1, 1, 8), laid_cup())[0], torch.eye(2, 3))
    np.testing.assert_array_equal(everywhere.continued()[0], scene())


def test_lines_of_another_thing_are_not_followed() -> None:
    other = np.full((SIDE, SIDE, 3), (60, 90, 120), np.uint8)
    cv2.line(other, (24, 30), (104, 100), (230, 230, 230), 3)
    cv2.circle(other, (88, 44), 14, (20, 30, 40), 3)
    assert align(scene(), lines_of(other), MASK) is None
