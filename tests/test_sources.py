"""Indexes from annotations in small, as the datasets publish them, and from folders of pictures."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from paint_by_example.cli import main
from paint_by_example.data import sources
from paint_by_example.data.dataset import BoxDataset
from paint_by_example.data.sources import SALIENT_AREA, clip, saliency, salient_boxes


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


COLUMNS = ("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax")
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")


def table(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    """Rows of (picture, left, top, right, bottom, group, depiction)."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS + FLAGS)
        for name, left, top, right, bottom, group, depiction in rows:
            writer.writerow([name, "xclick", "/m/1", 1, left, right, top, bottom, 0, 0, group, depiction, 0])
    return path


def index_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "train_b").mkdir(parents=True)
    picture(100, 50).save(folder / "a.jpg")
    picture(40, 80).save(folder / "train_b" / "b.jpg")
    (folder / "c.jpg").write_bytes((folder / "a.jpg").read_bytes()[:900])
    return folder


def openimages(out: Path, csv: Path, pictures: Path, *more: str) -> int:
    return main(["prepare", "openimages", str(out), "--annotations", str(csv), "--pictures", str(pictures), *more])


ROWS = [
    ("a", 0.1, 0.2, 0.5, 0.6, 0, 0),
    ("a", 0.0, 0.0, 0.1, 0.1, 0, 0),  # 1% of the picture
    ("a", 0.0, 0.0, 1.0, 0.9, 0, 0),  # 90%
    ("a", 0.5, 0.5, 0.9, 0.9, 1, 0),
    ("b", 0.5, 0.5, 1.0, 1.0, 0, 0),
    ("b", 0.5, 0.5, 1.0, 1.0, 0, 1),
    ("c", 0.1, 0.1, 0.5, 0.5, 0, 0),  # broken
    ("d", 0.1, 0.1, 0.5, 0.5, 0, 0),  # not there
]


def test_openimages_becomes_an_index_that_can_be_trained_on(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert openimages(out, table(tmp_path / "boxes.csv", ROWS), pictures) == 0
    captured = capsys.readouterr()
    assert captured.out == "pictures  2\nboxes  2\nskipped  2\n"
    assert "skipped.tsv" in captured.err
    assert index_of(out) == [
        {"picture": "../pictures/a.jpg", "boxes": [[10.0, 10.0, 50.0, 30.0]]},
        {"picture": "../pictures/train_b/b.jpg", "boxes": [[20.0, 40.0, 40.0, 80.0]]},
    ]
    skipped = [line.split("\t") for line in (out / "skipped.tsv").read_text().splitlines()]
    assert [name for name, _ in skipped] == ["../pictures/c.jpg", "../pictures/d.jpg"]
    assert "no such file" in skipped[1][1]
    assert len(list(BoxDataset(out / "index.jsonl", 16, 16))) == 2  # type: ignore[call-overload]


def test_what_is_filtered_can_be_asked_for(tmp_path: Path, pictures: Path) -> None:
    csv = table(tmp_path / "boxes.csv", ROWS)
    assert openimages(tmp_path / "all", csv, pictures, "--min-area", "0", "--max-area", "1", "--groups") == 0
    assert [len(line["boxes"]) for line in index_of(tmp_path / "all")] == [4, 1]
    assert openimages(tmp_path / "drawn", csv, pictures, "--depictions") == 0
    assert [len(line["boxes"]) for line in index_of(tmp_path / "drawn")] == [1, 2]


@pytest.mark.parametrize("cut", [0, 30, 60, 75, 130])
def test_running_again_goes_on_where_it_stopped(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    csv, out = table(tmp_path / "boxes.csv", ROWS), tmp_path / "out"
    assert openimages(out, csv, pictures) == 0
    whole = (out / "index.jsonl").read_bytes()
    (out / "index.jsonl.partial").write_bytes(whole[:cut])  # also within a line
    (out / "index.jsonl").unlink()
    looked: list[str] = []
    make = sources.make_line

    def make_line(one: sources.Found, *rest: Any) -> dict[str, Any] | None:
        looked.append(one.picture.name)
        return make(one, *rest)

    monkeypatch.setattr(sources, "make_line", make_line)
    assert openimages(out, csv, pictures) == 0
    assert (out / "index.jsonl").read_bytes() == whole
    assert len((out / "skipped.tsv").read_text().splitlines()) == 2
    assert looked == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"][whole[:cut].count(b"\n") :]
    looked.clear()
    picture(60, 60).save(pictures / "d.jpg")
    assert openimages(out, csv, pictures) == 0  # only what was skipped is tried again
    assert looked == ["c.jpg", "d.jpg"]
    assert (out / "index.jsonl").read_bytes().startswith(whole)
    assert len(index_of(out)) == 3
    assert len((out / "skipped.tsv").read_text().splitlines()) == 1


def test_other_options_are_not_mixed_into_an_index(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = table(tmp_path / "boxes.csv", ROWS)
    assert openimages(tmp_path / "out", csv, pictures) == 0
    assert openimages(tmp_path / "out", csv, pictures, "--groups") == 1
    assert "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("a", "x", 0, 1, 1, 0, 0)], "boxes.csv, line 2: a box without four numbers"),
        ([("a", 0, 0, 0.1, 0.1, 0, 0)], "no box has 2.0% to 80.0%"),
        ([ROWS[0], ROWS[4], ROWS[0]], "comes twice"),
    ],
)
def test_a_wrong_table_is_one_line(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], rows: list[tuple[Any, ...]], words: str
) -> None:
    assert openimages(tmp_path / "out", table(tmp_path / "boxes.csv", rows), pictures) == 1
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_where_no_box_is_left_other_options_may_follow(tmp_path: Path, pictures: Path) -> None:
    csv = table(tmp_path / "boxes.csv", [("a", 0, 0, 0.1, 0.1, 0, 0)])
    assert openimages(tmp_path / "out", csv, pictures) == 1
    assert openimages(tmp_path / "out", csv, pictures, "--min-area", "0.005") == 0
    assert len(index_of(tmp_path / "out")) == 1


def test_another_table_and_missing_options_are_one_line(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert openimages(tmp_path / "out", tmp_path / "other.csv", pictures) == 1
    assert "no column ImageID" in capsys.readouterr().err
    assert main(["prepare", "coco", str(tmp_path / "out")]) == 2
    assert "missing: --annotations, --pictures" in capsys.readouterr().err
    assert main(["prepare", "folder", str(tmp_path / "out"), "--pictures", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_coco_and_lvis_become_an_index(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "pictures"
    (folder / "train2017").mkdir(parents=True)
    for number in (1, 2, 3):
        picture(60, 50).save(folder / "train2017" / f"{number:012}.jpg")

    def entry(number: int, width: int = 60) -> dict[str, Any]:
        file = f"{number:012}.jpg"
        name = (
            {"file_name": file} if kind == "coco" else {"coco_url": f"http://images.cocodataset.org/train2017/{file}"}
        )
        return {"id": number, "width": width, "height": 50} | name

    content = {
        "images": [entry(1), entry(2), entry(3, width=61)],
        "annotations": [
            {"image_id": 1, "bbox": [10, 5, 20, 30], "iscrowd": 0},
            {"image_id": 2, "bbox": [10, 5, 20, 30], "iscrowd": 1},
            {"image_id": 1, "bbox": [0, 0, 3, 3]},
            {"image_id": 3, "bbox": [10, 5, 20, 30]},
        ],
    }
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    arguments = ["prepare", kind, str(tmp_path / "out"), "--annotations", str(path)]
    pictures = folder if kind == "lvis" else folder / "train2017"
    assert main([*arguments, "--pictures", str(pictures)]) == 0
    expected = {"picture": "../pictures/train2017/000000000001.jpg", "boxes": [[10.0, 5.0, 30.0, 35.0]]}
    assert index_of(tmp_path / "out") == [expected]
    assert "its boxes are for 61 x 50" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_what_is_no_coco_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("[]", "{", '{"annotations": [], "images": [{}]}', '{"annotations": [{"bbox": 3}], "images": []}'):
        (tmp_path / "a.json").write_text(content)
        arguments = ["prepare", "coco", str(tmp_path / "out"), "--annotations", str(tmp_path / "a.json")]
        assert main([*arguments, "--pictures", str(tmp_path)]) == 1
        assert "not in COCO's layout" in capsys.readouterr().err.splitlines()[-1]


def folder_index(tmp_path: Path, *more: str) -> list[dict[str, Any]]:
    assert main(["prepare", "folder", str(tmp_path / "out"), "--pictures", str(tmp_path / "images"), *more]) == 0
    return index_of(tmp_path / "out")


def test_a_folder_with_boxes_beside_the_pictures(tmp_path: Path) -> None:
    images = tmp_path / "images"
    (tmp_path / "labels").mkdir()
    images.mkdir()
    for name in "abcde":
        picture(100, 50).save(images / f"{name}.png")
    (images / "a.txt").write_text("3 0.3 0.4 0.4 0.4\n\n")
    (tmp_path / "labels" / "b.txt").write_text("0 0.3 0.4 0.4 0.4\n")
    box = "<xmin>11</xmin><ymin>11</ymin><xmax>50</xmax><ymax>30</ymax>"
    (images / "c.xml").write_text(f"<annotation><object><bndbox>{box}</bndbox></object></annotation>")
    (images / "d.txt").write_text("a photo of a dog\n")
    lines = folder_index(tmp_path)
    assert [line["picture"] for line in lines] == [f"../images/{name}.png" for name in "abc"]  # e has none
    assert all(np.allclose(line["boxes"], [[10, 10, 50, 30]]) for line in lines)
    assert "YOLO" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_a_folder_with_masks(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks" / "b").mkdir(parents=True)
    mask = np.zeros((50, 100), np.uint8)
    mask[10:30, 10:50] = 255
    for name in "ab":
        picture(100, 50).save(tmp_path / "images" / f"{name}.jpg")
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    Image.fromarray(mask).save(tmp_path / "masks" / "b" / "0.png")
    Image.fromarray(mask[::-1]).save(tmp_path / "masks" / "b" / "1.png")
    first, second = folder_index(tmp_path, "--masks", str(tmp_path / "masks"))
    assert first == {"picture": "../images/a.jpg", "boxes": [[10, 10, 50, 30]], "masks": ["../masks/a.png"]}
    assert second["boxes"] == [[10, 10, 50, 30], [10, 20, 50, 40]]
    assert second["masks"] == ["../masks/b/0.png", "../masks/b/1.png"]
    assert BoxDataset(tmp_path / "out" / "index.jsonl", 16, 16)[1]["exemplar"].shape == (16, 16, 3)


def test_pictures_that_are_left_out_and_masks_without_a_picture_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in "abc":
        picture(100, 50).save(tmp_path / "images" / f"{name}.jpg")
    masks = str(tmp_path / "masks")
    arguments = ["prepare", "folder", str(tmp_path / "out"), "--pictures", str(tmp_path / "images"), "--masks", masks]
    assert main(arguments) == 1
    assert f"has a mask in {masks}: a.png for a.jpg" in capsys.readouterr().err
    (tmp_path / "images" / "b.txt").write_text("0 0.3 0.4 0.4 0.4\n")
    assert [line["picture"] for line in folder_index(tmp_path)] == ["../images/b.jpg"]
    assert "pbe: 2 pictures have no boxes and are left out" in capsys.readouterr().err


def test_a_folder_with_neither_gets_boxes_where_pictures_stand_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    picture(100, 50).save(tmp_path / "images" / "a.jpg")
    lines = folder_index(tmp_path)
    captured = capsys.readouterr()
    assert "no masks or boxes for any of the 1 pictures" in captured.err
    assert captured.out.startswith("pictures  1\nboxes  3\n")
    (tmp_path / "out").rename(tmp_path / "before")
    assert folder_index(tmp_path) == lines
    (tmp_path / "out").rename(tmp_path / "again")
    assert folder_index(tmp_path, "--seed", "1") != lines


def test_saliency_finds_what_stands_out() -> None:
    grey = np.full((120, 160), 90, np.uint8)
    grey[70:100, 100:140] = np.random.default_rng(0).integers(0, 256, (30, 40))
    shown = saliency(grey)
    assert shown[70 * 64 // 120 : 100 * 64 // 120, 100 * 64 // 160 : 140 * 64 // 160].mean() > 2
    centres = np.array(
        [
            [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
            for box in salient_boxes(np.random.default_rng(0), shown, (160, 120))
        ]
    )
    assert np.all(np.abs(centres - (120, 85)) < 30)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 3000))
def test_salient_boxes_lie_in_the_picture_and_are_as_large_as_they_should(seed: int, width: int, height: int) -> None:
    for box in salient_boxes(np.random.default_rng(seed), np.ones((64, 64)), (width, height)):
        assert 0 <= box[0] < box[2] <= width
        assert 0 <= box[1] < box[3] <= height
        share = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
        assert SALIENT_AREA[0] - 1e-9 <= share <= SALIENT_AREA[1] + 1e-9


@given(st.tuples(*[st.floats(-50, 150)] * 4))
def test_clipping_leaves_what_lies_in_the_picture(edges: tuple[float, float, float, float]) -> None:
    box = clip(edges, (100, 80))
    if box is None:
        return
    assert 0 <= box[0] < box[2] <= 100
    assert 0 <= box[1] < box[3] <= 80
    assert box[0] in (0, edges[0])
    assert box[3] in (80, edges[3])
