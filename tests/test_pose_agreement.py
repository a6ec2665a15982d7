"""Agreement in pose, on people that are made up."""

import numpy as np
import pytest

from paint_by_example.evaluation.pose_agreement import pose_agreement
from paint_by_example.pose import Person

MASK = np.ones((100, 100), bool)


def standing(shift: float = 0.0, seen: int = 18) -> Person:
    y = np.linspace(10, 90, 18)
    points = np.column_stack([np.full(18, 50.0) + shift, y]).astype(np.float32)
    return Person(points, (np.arange(18) < seen).astype(np.float32))


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 1.0), (7.9, 1.0), (8.1, 0.0)])
def test_a_point_may_be_off_by_a_tenth_of_the_persons_size(shift: float, expected: float) -> None:
    assert pose_agreement([standing()], [standing(shift)], MASK) == expected


def test_points_that_are_not_seen_again_are_not_right() -> None:
    assert pose_agreement([standing()], [standing(seen=9)], MASK) == 0.5
    assert pose_agreement([standing()], [], MASK) == 0


def test_the_person_who_fits_best_counts() -> None:
    assert pose_agreement([standing()], [standing(40), standing(1), standing(20)], MASK) == 1
    assert pose_agreement([standing(), standing(30)], [standing()], MASK) == 0.5


def test_only_points_inside_the_mask_count_and_a_few_are_no_pose() -> None:
    mask = np.zeros((100, 100), bool)
    mask[:50] = True
    moved = standing()
    moved.points[9:] += 40  # outside the mask
    assert pose_agreement([standing()], [moved], mask) == 1
    mask[20:] = False
    assert pose_agreement([standing()], [standing()], mask) is None
    assert pose_agreement([], [standing()], MASK) is None
