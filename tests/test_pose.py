"""People: the geometry without the networks, and with them where they are."""

import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage import data

from paint_by_example import pose
from paint_by_example.compiled import cache_folder
from paint_by_example.errors import UserError
from paint_by_example.pose import COLOURS, LIMBS, Person, Square, body_square, draw_people, faces, find_people, refine

MODELS = os.environ.get("PBE_POSE_MODELS") or cache_folder()
there = any(Path(MODELS).glob("mediapipe-*.whl")) or (Path(MODELS) / pose.DETECTOR).is_file()
with_models = pytest.mark.skipif(
    not there, reason="needs mediapipe's wheel: pip download --no-deps mediapipe==0.10.21 -d $PBE_POSE_MODELS"
)


def someone(**changed: tuple[float, float]) -> Person:
    points = np.zeros((18, 2), np.float32)
    for name, place in changed.items():
        points[int(name[1:])] = place
    return Person(points, np.array([f"p{number}" in changed for number in range(18)], np.float32))


def test_there_are_as_many_anchors_as_outputs_in_rows_of_each_grid():
    places = pose.anchors()
    assert places.shape == (2254, 2)
    assert np.allclose(places[:4], [[0.5 / 28] * 2, [0.5 / 28] * 2, [1.5 / 28, 0.5 / 28], [1.5 / 28, 0.5 / 28]])
    assert np.allclose(places[1568], 0.5 / 14)
    assert np.allclose(places[1960:1966], 0.5 / 7)
    assert np.allclose(places[-1], 6.5 / 7)


def test_faces_that_overlap_are_one_and_the_surest_comes_first():
    boxes, scores = np.zeros((2254, 12), np.float32), np.full((2254, 1), -100.0, np.float32)
    middle = pose.anchors() * 224
    for anchor, logit, x in ((100, 1.0, 50.0), (101, 3.0, 51.0), (1900, 5.0, 150.0)):
        place = np.array([x, 60]) - middle[anchor]
        boxes[anchor] = np.concatenate(
            [place, [40, 40], place + np.array([0, 80]), place - np.array([0, 20]), place, place]
        )
        scores[anchor] = logit
    first, second = faces(boxes, scores)
    assert np.allclose(first[0] * 224, [150, 140], atol=1e-3)
    assert np.allclose(first[1] * 224, [150, 40], atol=1e-3)
    weights = 1 / (1 + np.exp(-np.array([1.0, 3.0])))
    assert np.allclose(second[0] * 224, [np.average([50, 51], weights=weights), 140], atol=1e-3)


def test_nobody():
    assert faces(np.zeros((2254, 12), np.float32), np.full((2254, 1), -5000.0, np.float32)) == []


def test_a_leaning_body_stands_upright_in_its_square():
    square = body_square(np.array([[100, 100], [130, 70], [0, 0], [0, 0]]))  # leans to the right by half a right angle
    assert square.angle == pytest.approx(np.pi / 4)
    assert square.side == pytest.approx(2.5 * np.hypot(30, 30))
    to_picture = square.to_picture()
    assert np.allclose(to_picture @ (0.5, 0.5, 1), (100, 100), atol=1e-4)
    assert np.allclose(to_picture @ (0.5, 0.5 - 1 / 2.5, 1), (130, 70), atol=1e-4)  # straight above the middle


@pytest.mark.parametrize("side", [64, 16])
def test_what_is_cut_out_is_what_lies_there(side: int):
    picture = cv2.resize(data.astronaut(), (64, 64), interpolation=cv2.INTER_AREA)
    cut = pose._cut(picture, Square((32, 32), 64, 0), side)
    expected = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA) / 255
    assert np.abs(cut - expected).mean() < (1e-6 if side == 64 else 0.03)
    turned = pose._cut(picture, Square((32, 32), 64, np.pi / 2), 64)
    assert np.allclose(turned, np.rot90(picture) / 255, atol=1e-5)
    assert not pose._cut(picture, Square((200, 32), 64, 0), side).any()


def test_a_place_is_the_middle_of_its_heat():
    values = np.zeros((39, 5), np.float32)
    values[:, :2], values[:, 3] = 128, 10
    heat = np.full((64, 64, 39), -50, np.float32)
    heat[33, 34, 0], heat[33, 35, 0] = 3, 3
    heat[32, 32, 1] = -2
    places, visible = refine(values, heat)
    assert np.allclose(places[0], (34.5 / 64, 33 / 64))
    assert np.allclose(places[1], 0.5)  # too faint to tell more
    assert visible[:3] == pytest.approx([1, 0, 0], abs=1e-4)  # flat where the body is not in the picture


def test_openpose_points_of_blazepose():
    places = np.stack([np.arange(39.0), -np.arange(39.0)], 1)
    visible = np.ones(39, np.float32)
    visible[12] = 0.2
    found = pose.person(places, visible)
    assert found.points[:, 0].tolist() == [0, 11.5, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7]
    assert np.flatnonzero(found.visible < 0.5).tolist() == [1, 2]  # no neck without both shoulders


def test_a_skeleton_in_openpose_colours():
    drawn = draw_people([someone(p0=(64, 20), p1=(64, 60), p2=(30, 60))], (128, 96))
    assert drawn.shape == (96, 128, 3)
    assert drawn[20, 64].tolist() == [255, 0, 0]  # nose
    assert drawn[60, 64].tolist() == [255, 85, 0]  # neck
    assert drawn[40, 64].tolist() == [0, 0, 153]  # neck to nose
    assert drawn[60, 47].tolist() == [153, 0, 0]  # neck to right shoulder
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 6  # those, the shoulder's, and black


def test_what_is_not_seen_is_not_drawn():
    assert not draw_people([Person(np.full((18, 2), 20, np.float32), np.full(18, 0.49, np.float32))], (40, 40)).any()
    assert not draw_people([], (40, 40)).any()


def test_colours_and_limbs_are_the_fields():
    assert COLOURS[:4] == ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0))
    assert COLOURS[-2:] == ((255, 0, 170), (255, 0, 85))
    assert len(COLOURS) == 18
    assert len(LIMBS) == 17
    assert {point for limb in LIMBS for point in limb} == set(range(18))


def test_a_part_of_the_picture():
    moved = someone(p0=(64, 20)).within(60, 10, 2.0)
    assert moved.points[0].tolist() == [8, 20]


def test_where_the_networks_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="no networks for poses in .*; get them with: pip download --no-deps mediapipe"):
        pose.find_models(tmp_path)
    monkeypatch.setenv("PBE_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="--pose-models FOLDER, or take"):
        pose.find_models()
    wheel = tmp_path / "mediapipe-0.10.21-cp311-cp311-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"mediapipe/modules/{pose.DETECTOR}", b"no network")
    assert pose.find_models() == pose.find_models(tmp_path) == pose.find_models(wheel) == wheel
    with pytest.raises(UserError, match="cannot read pose_detection.tflite from .*whl; get it again with: pip"):
        find_people(np.zeros((8, 8, 3), np.uint8), wheel)
    for name in (pose.DETECTOR, pose.LANDMARKS):
        (tmp_path / name).write_bytes(b"")
    assert pose.find_models(tmp_path) == tmp_path


@with_models
def test_an_astronaut_is_found():
    picture = data.astronaut()
    (found,) = find_people(picture, MODELS)
    places = {0: (218, 129), 14: (200, 105), 15: (243, 108), 2: (112, 225), 5: (308, 240)}  # nose, eyes, shoulders
    for number, place in places.items():
        assert found.visible[number] > 0.9
        assert np.hypot(*(found.points[number] - place)) < (8 if number in (0, 14, 15) else 25)
    assert not found.visible[[9, 10, 12, 13]].any()  # knees and feet are below the picture


@with_models
def test_two_people_and_nobody():
    picture = data.astronaut()
    both = find_people(np.concatenate([picture, picture[:, ::-1]], 1), MODELS)
    noses = sorted(float(one.points[0, 0]) for one in both)
    assert noses == pytest.approx([218, 1024 - 218], abs=15)
    assert find_people(data.coffee(), MODELS) == []


@with_models
def test_a_person_from_the_side():
    (found,) = find_people(np.repeat(data.camera()[..., None], 3, 2), MODELS)
    assert np.hypot(*(found.points[0] - (245, 170))) < 15  # the nose
    assert found.visible[[0, 1, 2, 5, 8, 11]].min() > 0.5
